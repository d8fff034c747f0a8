"""Features exported as GeoParquet: read by geopandas and pyarrow, and imported again."""

import dataclasses
import json

import duckdb
import geoparquet_validator
import numpy as np
import pyarrow.parquet as pq
import pystac
import pytest
from helpers import make_features
from pystac.validation import validate_dict
from sklearn.decomposition import PCA

from data import command, store
from data.errors import RequestError
from data.flags import ImportFlags
from data.store.exchange.geoparquet import write_geoparquet
from data.store.exchange.importing import import_features
from featurize.cli import app

geopandas = pytest.importorskip("geopandas", reason="needs the extra geo")


@pytest.fixture(params=[True, False])
def features(request, tmp_path):
    folder = make_features(tmp_path, multilabel=request.param, classes=3, rows=(40, 20, 30), dim=5)
    found = store.read_features(folder / "train.h5")
    lonlat = np.random.default_rng(0).uniform((5, 40), (15, 50), (40, 2))
    return dataclasses.replace(found, lonlat=lonlat)


def test_geopandas_reads_the_same_rows_places_and_classes(features, tmp_path):
    write_geoparquet(features, tmp_path / "a.parquet")
    frame = geopandas.read_parquet(tmp_path / "a.parquet").set_index("id").loc[features.ids]
    assert frame.crs == "OGC:CRS84"
    np.testing.assert_array_equal(np.column_stack([frame.geometry.x, frame.geometry.y]), features.lonlat)
    np.testing.assert_array_equal(np.stack(frame["embedding"]), features.features.astype(np.float32))
    if features.multilabel:
        wanted = [{features.class_names[k] for k in np.flatnonzero(row)} for row in features.labels]
        assert [set(names) for names in frame["classes"]] == wanted
    else:
        assert frame["class"].tolist() == [features.class_names[label] for label in features.labels]


def test_the_metadata_is_geoparquet_and_says_what_the_vectors_are(features, tmp_path):
    write_geoparquet(features, tmp_path / "a.parquet")
    file = pq.ParquetFile(tmp_path / "a.parquet")
    geo, emb = (json.loads(file.schema_arrow.metadata[key]) for key in (b"geo", b"emb"))
    assert geo["version"] == "1.1.0" and geo["columns"][geo["primary_column"]]["encoding"] == "WKB"
    np.testing.assert_allclose(
        geo["columns"]["geometry"]["bbox"], [*features.lonlat.min(axis=0), *features.lonlat.max(axis=0)]
    )
    assert emb["emb:dimensions"] == 5 and emb["identity"] == features.identity
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_samples_without_labels_are_imported_again(located, tmp_path):
    features = located["test"]
    write_geoparquet(dataclasses.replace(features, labels=np.full(len(features.ids), -1)), tmp_path / "a.parquet")
    assert command.run(app, ["import", str(tmp_path / "a.parquet"), "--name", "again", "--out", str(tmp_path)]) == 0


def test_damage_of_an_exported_page_is_found(features, tmp_path):
    write_geoparquet(features, file := tmp_path / "a.parquet")
    group, content = pq.ParquetFile(file).metadata.row_group(0), bytearray(file.read_bytes())
    chunk = next(
        one for one in map(group.column, range(group.num_columns)) if one.path_in_schema.startswith("embedding")
    )
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(RequestError, match="cannot be read"):
        import_features(file, ImportFlags(name="again"), tmp_path)


def test_neighbouring_rows_are_neighbouring_places(features, tmp_path):
    write_geoparquet(features, tmp_path / "a.parquet")
    frame = geopandas.read_parquet(tmp_path / "a.parquet")

    def steps(points):
        return np.linalg.norm(np.diff(points, axis=0), axis=1).mean()

    assert steps(np.column_stack([frame.geometry.x, frame.geometry.y])) < 0.6 * steps(features.lonlat)


def test_what_is_exported_is_imported_again(features, tmp_path):
    write_geoparquet(features, tmp_path / "a.geoparquet")
    label = "classes" if features.multilabel else "class"
    words = [
        "import",
        str(tmp_path / "a.geoparquet"),
        "--name",
        "back",
        "--label",
        label,
        "--out",
        str(tmp_path / "out"),
    ]
    assert command.run(app, words) == 0
    rows = dict(zip(features.ids, zip(features.features, features.lonlat, strict=True), strict=True))
    read = [store.read_features(file) for file in (tmp_path / "out").rglob("*.h5")]
    assert sorted(name for one in read for name in one.ids) == sorted(features.ids)
    for one in read:
        assert set(one.class_names) == set(features.class_names)
        for name, vector, place in zip(one.ids, one.features, one.lonlat, strict=True):
            np.testing.assert_array_equal(vector, rows[name][0].astype(vector.dtype))
            np.testing.assert_array_equal(place, rows[name][1])


def test_validators_accept_the_geoparquet_and_duckdb_reads_it(features, tmp_path):
    write_geoparquet(features, tmp_path / "a.parquet")
    checked = geoparquet_validator.check(str(tmp_path / "a.parquet"))
    assert geoparquet_validator.conformant(checked), geoparquet_validator.failed(checked)
    rows = duckdb.sql(f"select id, embedding, geometry from '{tmp_path / 'a.parquet'}'").fetchall()
    vectors = dict(zip(features.ids, features.features.astype(np.float32), strict=True))
    assert len(rows) == 40 and all(np.array_equal(vector, vectors[name]) for name, vector, _ in rows)


@pytest.fixture
def located(tmp_path):
    """A feature set of three splits with a signal, with places."""
    folder = make_features(tmp_path, multilabel=False, classes=3, rows=(120, 40, 60), dim=12, located=True)
    return {split: store.read_features(folder / f"{split}.h5") for split in ("train", "val", "test")}


def test_fewer_dimensions_and_8_bits_are_recorded_measured_and_read_back(located, tmp_path, capsys):
    for split, features in located.items():
        words = ["export", str(features.file), "--to", "geoparquet", "--pca", "6", "--quantize", "int8", "--stac"]
        assert command.run(app, words) == 0
        file = pq.ParquetFile(features.file.with_name(f"{split}.geoparquet"))
        emb = json.loads(file.schema_arrow.metadata[b"emb"])
        assert emb["emb:dimensions"] == 6 and emb["data_type"] == "int8"
        codes = np.stack(file.read().to_pandas().set_index("id").loc[features.ids]["embedding"])
        assert codes.dtype == np.int8
    fitted = PCA(6, random_state=0).fit(located["train"].features.astype(np.float32))
    wanted = fitted.transform(located["test"].features.astype(np.float32))
    scale, offset = (np.array(emb["emb:quantization"][key]) for key in ("scale", "offset"))
    ranges = fitted.transform(located["train"].features.astype(np.float32))
    inside = (wanted >= ranges.min(axis=0)) & (wanted <= ranges.max(axis=0))
    assert np.abs(codes * scale + offset - wanted)[inside].max() <= scale.max() / 2 + 1e-5
    scores = emb["emb:postprocessing"]["probe_score"]
    assert (
        scores["metric"] == "accuracy" and 0.4 < scores["after"] <= 1 and abs(scores["before"] - scores["after"]) < 0.2
    )
    assert f"{scores['before']:.3f} -> {scores['after']:.3f}" in capsys.readouterr().err
    folder = located["test"].file.parent
    words = ["import", str(folder / "test.geoparquet"), "--name", "back", "--out", str(tmp_path / "back")]
    assert command.run(app, [*words, "--split", "split", "--label", "class"]) == 0
    (back,) = [store.read_features(file) for file in (tmp_path / "back").rglob("*.h5")]
    order = [back.ids.index(name) for name in located["test"].ids]
    np.testing.assert_allclose(back.features[order], codes * scale + offset, rtol=1e-5, atol=1e-6)
    check_stac(folder)


def check_stac(folder):
    """STAC's own schemas, which pystac ships; the embedding extension's rules by hand, as its schema is not at hand."""
    collection = json.loads((folder / "collection.json").read_text())
    items = {split: json.loads((folder / f"{split}.stac.json").read_text()) for split in ("train", "val", "test")}
    for record in (collection, *items.values()):
        plain = record | {"stac_extensions": []}
        validate_dict(plain, href=str(folder / "x.json"))
    assert {link["href"] for link in collection["links"] if link["rel"] == "item"} == {
        f"./{split}.stac.json" for split in items
    }
    assert {"emb:model", "emb:source-data"} <= {link["rel"] for link in collection["links"]}
    assert collection["emb:type"] == "chip" and collection["emb:dimensions"] == 6 and collection["data_type"] == "int8"
    assert collection["emb:chip_layout"]["layout_type"] in ("regular_grid", "variable_grid", "named_grid")
    assert {"method", "original_dtype"} <= items["test"]["properties"]["emb:quantization"].keys()
    read = pystac.Collection.from_file(str(folder / "collection.json"))
    assert sorted(item.id.rpartition("_")[2] for item in read.get_items()) == ["test", "train", "val"]


def test_what_a_format_does_not_have_is_refused(located):
    file = located["train"].file
    for words in (["--to", "npz", "--pca", "3"], ["--stac"], ["--to", "geoparquet", "--pca", "13"]):
        assert command.run(app, ["export", str(file), *words]) == 2
    assert not list(file.parent.glob("*.geoparquet"))


def test_samples_without_locations_are_refused(features, tmp_path):
    with pytest.raises(RequestError, match="--to parquet"):
        write_geoparquet(dataclasses.replace(features, lonlat=None), tmp_path / "a.parquet")
