"""Feature files on disk: identity, writer, reader, verification, salvage, exchange.

One HDF5 file per split holds ``features`` (N, D), ``labels`` (N, K) or (N,), ``ids`` (N,) and, where known, ``lonlat``
(N, 2) and ``sources`` (N, 2), a stamp and a checksum of each image (`data.seen`). The attribute ``identity`` is all
that decides the values; ``environment`` is recorded and never compared.

While a split is being written it is a folder of parts and a journal; a part counts once it is in the journal, and the
finished file appears by one rename.
"""

from data.store.child import Damaged, inspected
from data.store.collapse import collapse, effective_rank, spread_rows
from data.store.fusion import block_weights, fused_folder, is_fused, joined
from data.store.identity import (
    DIGESTED,
    SCHEMA,
    TIMES_FIELD,
    dataset_slug,
    differing_fields,
    digest_array,
    digest_ids,
    encoder_slug,
    make_identity,
    sample_digests,
)
from data.store.reader import (
    CHUNK_ROWS,
    FeatureSet,
    find_features,
    knows_all_pixels,
    open_hdf5,
    read_features,
    read_geometries,
    read_identity,
    read_sources,
    splits_in,
)
from data.store.verify import VerifiedFeatures, clear_finished, salvage, verify_features, verify_parts
from data.store.writer import DEFAULT_PART_ROWS, FeatureWriter, PartWriter, reserved, tidy
