"""`featurize import`: embeddings made elsewhere, from real products and files in each format, and what is refused."""

import json

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import fit_run

from analysis.contract import ViewRequest, run_view
from data import store
from data.asked import running
from data.errors import RequestError
from data.flags import ImportFlags
from data.store.exchange import embeddings
from data.store.exchange.export import export
from data.store.exchange.importing import import_features
from featurize.repair import repair
from probes.inputs import read_splits

ROWS, DIM = 90, 8


@pytest.fixture
def made():
    rng = np.random.default_rng(0)
    labels = np.arange(ROWS) % 3
    vectors = (rng.standard_normal((ROWS, DIM)) + 3 * np.eye(DIM)[labels]).astype(np.float32)
    return {
        "ids": [f"tile-{row:03d}" for row in range(ROWS)],
        "names": np.array(["Forest", "Water", "Town"], object)[labels],
        "vectors": vectors,
        "splits": np.array(["train", "train", "train", "validation", "test"])[np.arange(ROWS) // 3 % 5],
        "lonlat": np.column_stack([np.linspace(5, 15, ROWS), np.linspace(40, 50, ROWS)]),
    }


def frame_of(made, **more):
    lists = {"id": made["ids"], "embedding": list(made["vectors"]), "label": made["names"], "split": made["splits"]}
    return pd.DataFrame(lists | {"lon": made["lonlat"][:, 0], "lat": made["lonlat"][:, 1]} | more)


def imported(tmp_path, file, **more):
    files = import_features(file, ImportFlags(name="mine", **more), tmp_path / "runs")
    return {path.stem: store.read_features(path) for path in files}


def check(sets, made, *, split="split"):
    """Every row of the file is in one split with its own vector, label and place."""
    order = {name: row for row, name in enumerate(made["ids"])}
    seen = []
    for features in sets.values():
        rows = [order[name] for name in features.ids]
        seen += rows
        assert rows == sorted(rows)
        assert np.array_equal(features.features, made["vectors"][rows])
        assert [features.class_names[k] for k in features.labels] == made["names"][rows].tolist()
        if features.lonlat is not None:
            assert np.allclose(features.lonlat, made["lonlat"][rows])
        assert store.verify_features(features.file).problems == ()
    assert sorted(seen) == list(range(ROWS))


def write_list(made, file):
    frame_of(made).to_parquet(file)


def write_wide(made, file):
    wide = {f"f{d:03d}": made["vectors"][:, d] for d in reversed(range(DIM))}
    frame_of(made).drop(columns="embedding").assign(**wide).to_parquet(file)


def write_fixed(made, file):
    table = pa.Table.from_pandas(frame_of(made).drop(columns="embedding"))
    column = pa.FixedSizeListArray.from_arrays(pa.array(made["vectors"].ravel()), DIM)
    pq.write_table(table.append_column("vector", column), file)


def write_npz(made, file):
    np.savez(
        file,
        features=made["vectors"],
        ids=np.array(made["ids"]),
        label=made["names"].astype(str),
        split=made["splits"],
        lonlat=made["lonlat"],
    )


def write_hdf5(made, file):
    with h5py.File(file, "w") as target:
        target["embeddings"] = made["vectors"]
        target["ids"] = np.array(made["ids"], dtype="S")
        target["label"] = made["names"].astype("S")
        target["split"] = made["splits"].astype("S")
        target["lonlat"] = made["lonlat"]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.parquet", write_list),
        ("b.parquet", write_wide),
        ("c.gpq", write_fixed),
        ("d.npz", write_npz),
        ("e.h5", write_hdf5),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path, made, name, write, monkeypatch):
    monkeypatch.setattr(embeddings, "BLOCK_ROWS", 17)  # several blocks, which end inside parts
    write(made, tmp_path / name)
    sets = imported(tmp_path, tmp_path / name)
    assert {split: len(s.ids) for split, s in sets.items()} == {"train": 54, "val": 18, "test": 18}
    check(sets, made)
    assert all(s.lonlat is not None for s in sets.values())


def test_an_array_and_a_table_are_joined_by_id(tmp_path, made):
    np.savez(tmp_path / "v.npz", X=made["vectors"], ids=np.array(made["ids"]))
    table = frame_of(made).drop(columns="embedding").sample(frac=1, random_state=1)  # in another order
    table.to_csv(tmp_path / "t.csv", index=False)
    check(imported(tmp_path, tmp_path / "v.npz", table=tmp_path / "t.csv"), made)


def test_splits_are_drawn_class_by_class_where_no_column_has_them(tmp_path, made):
    frame_of(made).drop(columns="split").to_parquet(tmp_path / "a.parquet")
    sets = imported(tmp_path, tmp_path / "a.parquet")
    check(sets, made)
    for split, share in (("train", 18), ("val", 6), ("test", 6)):
        assert np.abs(np.bincount(sets[split].labels) - share).max() <= 1
    assert sets["train"].identity["dataset"]["provenance"]["imported"]["split"] == "stratified, 60/20/20, seed 0"
    again = imported(tmp_path / "again", tmp_path / "a.parquet")
    other = imported(tmp_path / "other", tmp_path / "a.parquet", seed=1)
    assert again["test"].ids == sets["test"].ids != other["test"].ids


def test_several_labels_of_a_sample(tmp_path, made):
    lists = [["Forest", "Water"] if row % 2 else ["Town"] for row in range(ROWS)]
    frame_of(made, label=lists).to_parquet(tmp_path / "a.parquet")
    frame_of(made, label=[";".join(one) for one in lists]).to_parquet(tmp_path / "b.parquet")
    one, two = (imported(tmp_path / name, tmp_path / f"{name}.parquet")["train"] for name in "ab")
    assert one.class_names == ("Forest", "Town", "Water") and one.multilabel
    assert np.array_equal(one.labels, two.labels)
    assert np.array_equal(one.labels.sum(axis=1), [2 if int(name[-3:]) % 2 else 1 for name in one.ids])


def test_numbers_as_labels_keep_their_order(tmp_path, made):
    frame_of(made, label=np.arange(ROWS) % 12).to_parquet(tmp_path / "a.parquet")
    assert imported(tmp_path, tmp_path / "a.parquet")["train"].class_names == tuple(str(k) for k in range(12))


def test_an_imported_set_is_probed_like_any_other(tmp_path, made):
    write_list(made, tmp_path / "a.parquet")
    sets = imported(tmp_path, tmp_path / "a.parquet", model="theirs")
    run = fit_run("knn", read_splits(sets["train"].file.parent), tmp_path / "runs")
    assert run.record["metrics"]["test"]["half"]["accuracy"] > 0.8
    assert run.dataset == "mine" and run.encoder.startswith("theirs_imported")


def test_clay_is_imported_whole(tmp_path, shared):
    file = shared / "data" / "embeddings" / "clay-v0_03WVN.gpq"
    sets = imported(tmp_path, file)
    assert list(sets) == ["test"]
    clay, table = sets["test"], pq.read_table(file)
    assert clay.ids == table.column("source_url").to_pylist()
    assert np.array_equal(clay.features, np.array(table.column("embeddings").to_pylist(), np.float32))
    import shapely

    places = shapely.centroid(shapely.from_wkb(table.column("geometry").to_numpy()))
    assert np.allclose(clay.lonlat, np.column_stack([shapely.get_x(places), shapely.get_y(places)]))
    assert (clay.labels == -1).all() and clay.identity["encoder"]["name"] == "clay-v0"
    (output,) = run_view("umap", ViewRequest(out=tmp_path / "runs"), points=60)
    assert output.title == "UMAP" and output.file("png")
    again = pq.read_table(export(clay.file, "geoparquet")[0]).to_pandas().set_index("id").loc[clay.ids]
    shapes = [shapely.from_wkb(list(column)) for column in (again["geometry"], table.column("geometry").to_pylist())]
    assert shapely.equals_identical(*shapes).all() and len(again) == 417
    assert np.array_equal(np.stack(again["embedding"]), clay.features)


def test_products_without_usable_rows_say_so(tmp_path, shared):
    folder = shared / "data" / "embeddings"
    with pytest.raises(RequestError, match="has no rows"):
        imported(tmp_path, folder / "earth-index_21MNT_empty.parquet")
    with pytest.raises(RequestError, match="2 with NaN, infinite or absent values, first row 2.*--drop"):
        imported(tmp_path, folder / "planet_sample.parquet")
    planet = imported(tmp_path, folder / "planet_sample.parquet", drop=True)["test"]
    assert len(planet.ids) == 3 and np.isfinite(planet.features).all() and planet.lonlat is not None
    dropped = planet.identity["dataset"]["provenance"]["imported"]["dropped"]
    assert dropped == {"with NaN, infinite or absent values": 2}
    with pytest.raises(RequestError, match="--format earth-index.*no column id, embedding"):
        imported(tmp_path, folder / "clay-v0_03WVN.gpq", format="earth-index")


def test_the_file_names_its_model(tmp_path, made):
    table = pa.Table.from_pandas(frame_of(made))
    about = {b"emb": json.dumps({"model": {"id": "softcon"}}).encode()}
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "a.parquet")
    assert imported(tmp_path, tmp_path / "a.parquet")["train"].identity["encoder"]["name"] == "softcon"


def broken(made, **changes):
    frame = frame_of(made)
    for column, (row, value) in changes.items():
        values = frame[column].tolist()
        values[row] = value
        frame[column] = values
    return frame


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"id": (4, "tile-002")}, "1 with an id that occurs before, first row 5"),
        ({"id": (4, None)}, "1 without an id, first row 5"),
        ({"embedding": (2, [np.nan] * DIM)}, "1 with NaN, infinite or absent values, first row 3"),
        ({"embedding": (2, None)}, "1 with NaN, infinite or absent values, first row 3"),
        ({"embedding": (2, [1.0] * (DIM - 1))}, "1 with NaN, infinite or absent values, first row 3"),
        ({"label": (7, None)}, "1 without a value in label, first row 8"),
        ({"split": (7, "holdout")}, "1 with a value in split other than train, val and test, first row 8"),
    ],
)
def test_rows_that_cannot_be_used_are_counted_or_dropped(tmp_path, made, changes, told):
    file = tmp_path / "a.parquet"
    broken(made, **changes).to_parquet(file)
    with pytest.raises(RequestError, match=told):
        imported(tmp_path, file)
    assert not (tmp_path / "runs").exists()
    sets = imported(tmp_path, file, drop=True)
    assert sum(len(s.ids) for s in sets.values()) == ROWS - 1


def test_wrong_requests_are_one_line(tmp_path, made):
    file = tmp_path / "a.parquet"
    write_list(made, file)
    for more, told in (
        ({"id": "name"}, "no column name for --id"),
        ({"label": "kind"}, "no column kind for --label"),
        ({"split": "part"}, "no column part for --split"),
        ({"lon": "x"}, "--lon and --lat go together"),
        ({"lon": "x", "lat": "y"}, "no columns x and y"),
        ({"embedding": "vec"}, "no column or numbered columns 'vec'"),
        ({"format": "clays"}, "format 'clays'.*clay"),
        ({"table": tmp_path / "none.csv"}, "no table at"),
    ):
        with pytest.raises(RequestError, match=told):
            imported(tmp_path, file, **more)
    with pytest.raises(RequestError, match="--name"):
        import_features(file, ImportFlags(name="../mine"), tmp_path / "runs")
    for name, content in (("a.npy", b"no array"), ("a.h5", b"no hdf5"), ("b.parquet", b"PAR1"), ("a.txt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RequestError, match=name):
            imported(tmp_path, tmp_path / name)
    np.save(tmp_path / "c.npy", np.arange(5))
    with pytest.raises(RequestError, match="expected N x D"):
        imported(tmp_path, tmp_path / "c.npy")


def test_what_the_command_recorded_is_no_flags_to_take_images_or_a_repair_from(tmp_path, made):
    write_npz(made, tmp_path / "a.npz")
    with running(["featurize", "import", "a.npz", "--name", "mine"]):
        file = imported(tmp_path, tmp_path / "a.npz")["test"].file
    like = store.read_features(file).ids[0]
    assert run_view("similar", ViewRequest(out=tmp_path / "runs"), like=like, count=2)
    with h5py.File(file) as source:
        start = source["features"].id.get_chunk_info(0).byte_offset
    content = bytearray(file.read_bytes())
    content[start] ^= 1
    file.write_bytes(content)
    with pytest.raises(RequestError, match="--overwrite: featurize import a.npz --name mine"):
        repair(file)


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.9, 0.99])
def test_half_a_file_is_one_line(tmp_path, made, keep):
    for name, write in (("a.npz", write_npz), ("a.parquet", write_list)):
        write(made, tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: int(keep * len(content))])
        with pytest.raises(RequestError, match=f"{name} cannot be read"):
            imported(tmp_path, tmp_path / name)


def test_damaged_vectors_are_one_line(tmp_path, made):
    """Of Parquet they are read after the columns beside them."""
    np.savez_compressed(tmp_path / "a.npz", embeddings=made["vectors"], ids=made["ids"])
    write_list(made, tmp_path / "a.parquet")
    for name in ("a.npz", "a.parquet"):
        content = bytearray((tmp_path / name).read_bytes())
        content[150:400] = bytes(250)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RequestError, match=name):
            imported(tmp_path, tmp_path / name)


def test_a_lost_column_of_vectors_is_one_line(tmp_path):
    columns = {"id": list("abcd")} | {f"f{number:02}": np.ones(4, np.float32) for number in (0, 1, 3)}
    pd.DataFrame(columns).to_parquet(tmp_path / "v.parquet")
    with pytest.raises(RequestError, match="f01"):
        import_features(tmp_path / "v.parquet", ImportFlags(name="v"), tmp_path / "out")


def test_a_table_is_read_as_those_of_a_folder_are(tmp_path, made):
    """Lists in cells, semicolons, tabs, UTF-16, commas in numbers: the same set each time."""
    lists = [["Forest", "Water"] if row % 2 else ["Town"] for row in range(ROWS)]
    ids = [f"row-{row:07d}" for row in range(ROWS)]
    np.savez(tmp_path / "v.npz", embeddings=made["vectors"], ids=ids)
    forms = {
        "plain": (lambda one: ";".join(one), ",", "utf-8", "."),
        "lists": (repr, ";", "utf-8-sig", ","),
        "json": (json.dumps, "\t", "utf-16", ","),
        "bars": ("|".join, ";", "utf-8", "."),
    }
    found = {}
    for name, (cell, separator, encoding, point) in forms.items():
        table = pd.DataFrame({"id": ids, "labels": [cell(one) for one in lists], "split": made["splits"]})
        for column, values in zip(("lon", "lat"), made["lonlat"].T, strict=True):
            table[column] = [f"{value:.6f}".replace(".", point) for value in values]
        table.to_csv(tmp_path / f"{name}.csv", index=False, sep=separator, encoding=encoding)
        found[name] = imported(tmp_path / name, tmp_path / "v.npz", table=tmp_path / f"{name}.csv")["test"]
    for one in found.values():
        assert one.class_names == ("Forest", "Town", "Water") and one.ids == found["plain"].ids
        assert np.array_equal(one.labels, found["plain"].labels) and np.allclose(one.lonlat, found["plain"].lonlat)
    assert len(found["plain"].lonlat)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lon": ["12 east"] * ROWS}, f"{ROWS} values of lon .*'12 east' in row 1"),
        ({"label": ["[a b]"] * ROWS}, f"{ROWS} with a list in label that cannot be read"),
        ({"label": pd.date_range("2020-01-01", periods=ROWS)}, "label holds .*needs class names or whole numbers"),
        ({"label": [np.inf] * ROWS}, "label holds .*needs class names or whole numbers"),
    ],
)
def test_cells_that_cannot_be_read_are_one_line(tmp_path, made, changes, told):
    frame_of(made, **changes).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=told):
        imported(tmp_path, tmp_path / "a.parquet")


def test_numbers_in_a_csv_table_keep_their_order_too(tmp_path, made):
    np.savez(tmp_path / "v.npz", embeddings=made["vectors"], ids=made["ids"])
    table = pd.DataFrame({"id": made["ids"], "label": np.arange(ROWS) % 12, "split": "test"})
    table.to_csv(tmp_path / "t.csv", index=False)
    assert imported(tmp_path, tmp_path / "v.npz", table=tmp_path / "t.csv")["test"].class_names == tuple(
        str(k) for k in range(12)
    )


def test_hints_name_the_import_not_featurize(tmp_path, shared):
    file = shared / "data" / "embeddings" / "clay-v0_03WVN.gpq"
    (features,) = imported(tmp_path, file).values()
    with pytest.raises(RequestError, match="featurize import"):
        read_splits(features.file.parent)
    (page,) = run_view("report", ViewRequest(out=tmp_path / "runs"))
    assert f"featurize import {file.name} --name mine --model clay-v0" in page.file("html").read_text()
