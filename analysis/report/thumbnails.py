"""Thumbnails of samples, side by side in one image, cached by the identity of what they show."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from analysis import samples
from data import store
from data.cached import arrays_in
from data.command import say
from data.files import canonical_json, published, short_hash

SIDE = 48  # pixels of a picture
COLUMNS = 50
QUALITY = 72  # of WebP: about 1 kB per picture


def chosen(ids: Sequence[str], first: Sequence[str], count: int) -> list[str]:
    """Samples to make thumbnails of: those of `first`, and `count` spread evenly over `ids`; in the order of `ids`."""
    spread = np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)
    wanted = set(first) | {ids[i] for i in spread}
    return [name for name in ids if name in wanted]


def sprite(
    dataset: dict[str, Any], split: dict[str, Any], ids: Sequence[str], *, root: Path | None, cache: Path
) -> bytes:
    """Pictures of samples in one image, row by row; one kept in `cache` for the same samples is used again.

    Dataset and split are identities of their features. Without `root`, data are in ``EO_DATA_ROOT``, then ``datasets``.

    Returns:
        WebP, `COLUMNS` thumbnails of `SIDE` pixels per row.

    Raises:
        RequestError: the data are not there, or are other data.
    """
    about = {"dataset": dataset, "split": split, "ids_sha256": store.digest_ids(ids)}
    identity = canonical_json(about | {"side": SIDE, "columns": COLUMNS, "quality": QUALITY, "stretch": 2})
    file = cache / f"thumbnails-{short_hash(identity, 16)}.npz"
    if kept := arrays_in(file, "image", key="identity", value=identity):
        return kept[0].tobytes()
    say(f"report: {len(ids):,} thumbnails of {dataset['name']} ...")
    sources = samples.open_samples(dataset, split["name"], data_root=root, ids=ids)
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-len(ids) // COLUMNS) * SIDE))
    for place, name in enumerate(ids):
        small = Image.fromarray(samples.picture(sources[name], name)).resize((SIDE, SIDE), Image.Resampling.BOX)
        sheet.paste(small, (place % COLUMNS * SIDE, place // COLUMNS * SIDE))
    buffer = io.BytesIO()
    sheet.save(buffer, "webp", quality=QUALITY)
    with published(file) as temporary, temporary.open("wb") as target:
        np.savez(target, image=np.frombuffer(buffer.getvalue(), np.uint8), identity=identity)
    return buffer.getvalue()
