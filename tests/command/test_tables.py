"""Tables on the command line: trained, filled, scored, drawn; and one line and exit 2 for what cannot be."""

import csv
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import allegory as al
from allegory.command import main, table_demo
from allegory.tabular import read_frame, write_frame

TINY = ["--epochs", "3", "--hidden", "16", "--latent", "2", "--precision", "float32", "--no-compile"]
FEW = ["--importance-samples", "20"]


def people(path, rows=300, seed=0):
    """A table of whole numbers, cents, categories, rain and an id, with gaps."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=rows)
    age = np.clip(40 + 12 * z + 5 * rng.normal(size=rows), 17, 90).round().astype(int)
    income = np.exp(7 + 0.5 * z + 0.4 * rng.normal(size=rows)).round(2)
    region = np.array(["north", "south", "east"])[np.digitize(z + 0.5 * rng.normal(size=rows), [-0.5, 0.5])]
    rain = np.where(rng.random(rows) < 0.6, 0, rng.gamma(2, 3, rows).round(1))
    columns = {"age": age, "income": income, "region": region, "rain": rain}
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["who", *columns])
        for i in range(rows):
            cells = [f"{values[i]}".replace(".", ",") for values in columns.values()]
            writer.writerow([f"p{i:04}", *("" if rng.random() < 0.08 else cell for cell in cells)])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_default_dtype(torch.float32)
    where = tmp_path_factory.mktemp("tables")
    people(where / "people.csv")
    words = ["train", str(where / "people.csv"), "--out", str(where / "run"), "--drop", "who", *TINY]
    assert main(words) == 0
    return where


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path, request):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    if "folder" in request.fixturenames:
        for path in request.getfixturevalue("folder").iterdir():
            Path(path.name).symlink_to(path)


def fails(capsys, *words):
    """Exit 2, nothing on standard output, one line on standard error besides remarks, which is returned."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("allegory") and "warning" not in line]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert "Traceback" not in err
    return lines[0]


def cells(path, delimiter=";"):
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


@pytest.mark.usefixtures("folder")
def test_a_run_of_a_table_has_its_schema_and_its_model_the_columns():
    run = al.Run("run")
    assert run.schema.names == ("age", "income", "region", "rain")
    assert run.model.config["likelihood"]["names"] == list(run.schema.names)
    assert run.settings["objective"] == "iwae"  # there are gaps
    assert (run.settings["samples"], run.config["command"]["batch_size"]) == (5, 256)
    assert run.data.schema == run.schema
    assert run.data.train.isnan().any()
    assert "mlp columns" in repr(run)
    assert run.config["data"]["dialect"]["delimiter"] == ";"


@pytest.mark.usefixtures("folder")
def test_evaluate_and_diagnose_score_it(capsys):
    assert main(["evaluate", "run", "--json", *FEW]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["examples"] == 30
    assert 10 < found["nll"] < 30
    assert found["nll"] <= -found["elbo"] + 0.01
    assert main(["diagnose", "run", "--examples", "20"]) == 0


@pytest.mark.usefixtures("folder")
def test_impute_fills_the_gaps_and_leaves_the_rest_as_it_was(capsys):
    assert main(["impute", "run", "people.csv", "--out", "filled.csv", *FEW]) == 0
    before, after = cells("people.csv"), cells("filled.csv")
    gaps = sum(cell == "" for row in before for cell in row)
    assert f"300 rows, {gaps} gaps filled" in capsys.readouterr().out
    assert before[0] == after[0]

    def number(cell):
        return float(cell.replace(",", ".")) if cell.replace(",", "").isdigit() else cell  # 3,0 is 3

    for old, new in zip(before, after, strict=True):
        assert "" not in new
        assert all(number(a) == number(b) for a, b in zip(old, new, strict=True) if a)
    filled = read_frame("filled.csv")
    assert filled["age"].dtype == np.int64
    assert set(filled["region"]) == {"north", "south", "east"}
    assert main(["impute", "run", "people.csv", "--out", "many.csv.gz", "--draws", "2", *FEW]) == 0
    one, two = read_frame("many-1.csv.gz"), read_frame("many-2.csv.gz")
    missing = np.isnan(read_frame("people.csv")["age"])
    assert (one["age"][~missing] == two["age"][~missing]).all()
    assert (one["age"][missing] != two["age"][missing]).any()


@pytest.mark.usefixtures("folder")
def test_rows_that_come_again_fill_each_other_first():
    """Every row is there twice, with gaps of its own, and is told by its income."""
    header, *rows = cells(people("whole.csv"))
    rows = 2 * [row for row in rows if "" not in row]
    gaps = np.random.default_rng(0).random((len(rows), 5)) < [0, *[0.15] * 4]
    with open("twice.csv", "w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([header, *np.where(gaps, "", rows)])
    whole, twin = np.array([float(row[1]) for row in rows]), np.roll(gaps, len(rows) // 2, 0)
    foretold = gaps[:, 1] & ~twin[:, 1] & ~gaps[:, 2] & ~twin[:, 2]

    def right(out, *words):
        assert main(["impute", "run", "twice.csv", "--out", out, *words, *FEW]) == 0
        age = np.array(read_frame(out)["age"], float)
        return np.where(np.isnan(age), np.nan, age == whole)[foretold]

    assert right("a.csv").mean() < 0.5
    assert right("b.csv", "--copies").mean() > 0.9
    assert np.isnan(right("c.csv", "--copies", "--given", "age=?")).all()


@pytest.mark.usefixtures("folder")
def test_a_frame_of_any_library_is_filled_in_it():
    pandas, polars, run = pytest.importorskip("pandas"), pytest.importorskip("polars"), al.Run("run")
    frame = pandas.DataFrame(
        {
            "rain": [0.0, 1.5],
            "region": pandas.Categorical(["north", None]),
            "income": [None, 99.5],
            "who": ["a", "b"],
            "age": pandas.array([None, 33], dtype="Int64"),
        },
        index=["x", "y"],
    )
    filled = run.impute(frame, samples=20)
    assert filled.dtypes.equals(frame.dtypes)
    assert not filled.isna().any(axis=None)
    assert list(filled.index) == ["x", "y"]
    assert filled.loc["y", "income"] == 99.5
    draws = run.impute(polars.from_pandas(frame), draws=2, samples=20)
    assert [type(one) for one in draws] == [polars.DataFrame] * 2
    assert run.score(frame, samples=20).shape == (2,)


@pytest.mark.usefixtures("folder")
def test_a_score_is_of_the_row_alone_and_every_cell_has_one(capsys):
    assert main(["score", "run", "people.csv", "--out", "scores.csv", "--cells", *FEW]) == 0
    assert "300 rows, " in capsys.readouterr().out
    found = read_frame("scores.csv")
    assert list(found) == ["who", "score", *(f"score of {name}" for name in ("age", "income", "region", "rain"))]
    lines = Path("people.csv").read_text().splitlines()
    Path("few.csv").write_text("\n".join([lines[0], lines[9], lines[4]]))
    assert main(["score", "run", "few.csv", "--out", "again.csv", *FEW]) == 0
    again = read_frame("again.csv")
    assert again["who"].tolist() == ["p0008", "p0003"]
    assert np.abs(again["score"] - found["score"][[8, 3]]).max() < 1e-5
    missing = np.isnan(read_frame("people.csv")["age"])
    assert (np.isnan(found["score of age"]) == missing).all()


@pytest.mark.usefixtures("folder")
def test_rows_are_drawn_with_their_types_and_under_conditions():
    assert main(["sample", "run", "--count", "50", "--out", "rows.csv"]) == 0
    rows = read_frame("rows.csv")
    assert list(rows) == ["age", "income", "region", "rain"]
    assert rows["age"].dtype == np.int64
    assert set(rows["region"]) <= {"north", "south", "east"}
    assert (rows["rain"] >= 0).all()
    assert cells("rows.csv")[0] == ["age", "income", "region", "rain"]  # the delimiter of the training data
    assert main(["sample", "run", "--count", "9", "--out", "north.csv", "--given", "region=north,age=50"]) == 0
    north = read_frame("north.csv")
    assert set(north["region"]) == {"north"}
    assert set(north["age"]) == {50}
    assert len(set(north["income"])) > 5


@pytest.mark.usefixtures("folder")
def test_codes_keep_the_names_of_the_rows():
    assert main(["encode", "run", "people.csv", "--out", "codes.csv"]) == 0
    codes = read_frame("codes.csv")
    assert list(codes) == ["who", "z1_mean_0", "z1_mean_1", "z1_std_0", "z1_std_1"]
    assert codes["who"][0] == "p0000"
    assert main(["encode", "run", "people.csv", "--out", "codes.npz"]) == 0
    arrays = np.load("codes.npz")
    assert arrays["z1_mean"].shape == (300, 2)
    assert arrays["who"][7] == "p0007"
    assert np.allclose(arrays["z1_mean"][:, 1], codes["z1_mean_1"], atol=1e-5)


@pytest.mark.usefixtures("folder")
def test_parquet_does_as_csv_does(capsys):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame(dict(read_frame("people.csv"))).to_parquet("people.parquet")
    assert main(["score", "run", "people.parquet", "--out", "a.parquet", *FEW]) == 0
    assert main(["score", "run", "people.csv", "--out", "b.csv", *FEW]) == 0
    a, b = pandas.read_parquet("a.parquet"), read_frame("b.csv")
    assert np.allclose(a["score"], b["score"], atol=1e-9)
    assert main(["train", "people.parquet", "--out", "other", "--drop", "who", *TINY]) == 0
    assert main(["sample", "other", "--count", "3", "--out", "c.parquet"]) == 0
    assert list(pandas.read_parquet("c.parquet").columns) == ["age", "income", "region", "rain"]


@pytest.mark.usefixtures("folder")
def test_the_schema_and_remarks_are_said_before_training(capsys):
    text = Path("people.csv").read_text().replace(";;", ";?;").replace("\n", ";7\n").replace(";7", ";odd", 1)
    Path("more.csv").write_text(text)
    words = ["train", "more.csv", "--out", "more", "--drop", "who", "--gaps", "?", "--column", "age=real", *TINY]
    assert main([*words, "--epochs", "1"]) == 0
    err = capsys.readouterr().err
    assert "column  kind         values" in err
    assert "age     real" in err
    assert "odd     constant" in err
    assert al.Run("more").schema.columns[-1].kind == "constant"
    assert al.Run("more").data.train.shape[1] == 4


def test_a_file_that_has_changed_is_noticed(capsys):
    people("mine.csv")
    assert main(["train", "mine.csv", "--out", "mine", "--drop", "who", *TINY, "--epochs", "1"]) == 0
    people("mine.csv", seed=1)
    assert "mine.csv has changed since mine was trained on it" in fails(capsys, "evaluate", "mine", *FEW)


@pytest.mark.filterwarnings("always")
def test_an_array_with_gaps_is_looked_at_column_by_column(capsys):
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(size=300), rng.poisson(400, 300), rng.lognormal(2, 1, 300).round(2), np.full(300, 3.0)]
    x[rng.random(x.shape) < 0.1] = np.nan
    np.save("x.npy", x)
    assert main(["train", "x.npy", "--out", "x", *TINY]) == 0
    err = capsys.readouterr().err
    assert f"{np.isnan(x).sum()} of 1,200 values are NaN, in columns 0, 1, 2, 3: gaps" in err
    assert "likelihood: columns, because the data have columns of different kinds: " in err
    assert main(["sample", "x", "--count", "7", "--out", "s.npz"]) == 0
    drawn = np.load("s.npz")["samples"]
    assert drawn.shape == (7, 4)
    assert (drawn[:, 1] == drawn[:, 1].round()).all()
    assert (drawn[:, 3] == 3).all()
    assert main(["evaluate", "x", "--json", *FEW]) == 0
    assert main(["encode", "x", "x.npy", "--out", "z.npz"]) == 0


@pytest.mark.filterwarnings("always")
def test_gaps_in_pictures_and_levels_are_left_out(capsys):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (200, 12)).astype(float)
    x[rng.random(x.shape) < 0.1] = np.nan
    np.save("bits.npy", x)
    assert main(["train", "bits.npy", "--out", "bits", *TINY]) == 0
    err = capsys.readouterr().err
    assert "in columns 0, 1, 2, 3, 4, 5, 6, 7 and 4 more: gaps" in err
    assert "likelihood: bernoulli" in err
    assert al.Run("bits").model.config["gaps"]
    assert main(["evaluate", "bits", "--json", *FEW]) == 0
    assert json.loads(capsys.readouterr().out)["nll"] < 12 * np.log(2) + 1
    why = fails(capsys, "train", "bits.npy", "--out", "b", "--likelihood", "normal_optimal", *TINY)
    assert "normal_optimal fits its sigma to whole batches; wanted" in why


BAD = {
    "no such column": (
        ["--column", "agee=count", "--drop", "who"],
        "--column names 'agee', which is no column; there are",
    ),
    "nothing to drop": (["--drop", "whom"], "--drop names 'whom', which is no column; there are 'who', 'age'"),
    "an id": ([], "columns that only tell the rows apart: 'who' (text, 300 different values in 300 rows); leave"),
    "no such kind": (
        ["--drop", "who", "--column", "age=cuont"],
        "got 'age=cuont', did you mean 'count'?; wanted NAME=",
    ),
    "another kind": (["--drop", "who", "--column", "region=count"], "column 'region' is said to be count, and holds"),
    "a likelihood": (["--drop", "who", "--likelihood", "normal"], "each of its columns has a likelihood of its own"),
    "an array": (["--drop", "who", "--array", "x"], "people.csv is a table; array='x' is for arrays and images"),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("mistake", BAD)
def test_what_cannot_be_trained_is_told_in_one_line(mistake, capsys):
    words, told = BAD[mistake]
    assert told in fails(capsys, "train", "people.csv", "--out", "bad", *TINY, *words)
    assert not Path("bad").exists()


FILES = {
    "ragged rows": ("a,b\n1,2\n3\n", "line 3: 1 fields; wanted 2"),
    "columns that stand twice": ("a,b,a\n1,2,3\n", "columns that stand twice in its first line: 'a'"),
    "thousands separators": ("a;b\n1,234,567;1\n2,345,678;2\n", "thousands separators, such as '1,234,567'"),
    "no value at all": ("a,b\n,\n,\n,\n", "x.csv: every column is the same throughout, or missing"),
    "a gap in every row of a column": ("a,b\n" + "1,\n2,\n" * 50, None),
    "values in test alone": ("a,b\n" + "1,\n2,\n" * 50 + "1,5\n2,6\n", "the training split has no value of column 'b'"),
}


@pytest.mark.parametrize("mistake", FILES)
def test_files_that_are_no_table_are_told_in_one_line(mistake, capsys):
    text, told = FILES[mistake]
    Path("x.csv").write_text(text)
    words = ["train", "x.csv", "--out", "run", "--split", "ordered", *TINY]
    if told is not None:
        assert told in fails(capsys, *words)
        return
    assert main(words) == 0
    assert (
        "column 'b': every value is missing, so that it is left out of the model; --drop 'b'" in capsys.readouterr().err
    )


@pytest.mark.usefixtures("folder")
def test_frames_that_are_not_the_runs_are_told_in_one_line(capsys):
    rows = Path("people.csv").read_text().splitlines()
    Path("other.csv").write_text("\n".join(row.replace("region", "area") for row in rows))
    told = "the frame has no column 'region', and has 'area', which the schema does not know"
    assert told in fails(capsys, "score", "run", "other.csv", "--out", "o.csv", *FEW)
    assert told in fails(capsys, "impute", "run", "other.csv", "--out", "o.csv", *FEW)
    assert told in fails(capsys, "encode", "run", "other.csv", "--out", "o.csv")
    assert "wanted a whole number, 1 or more" in fails(
        capsys, "impute", "run", "people.csv", "--out", "o.csv", "--draws", "0"
    )
    with pytest.raises(ValueError, match="draws=0: wanted at least 1"):
        al.Run("run").impute("people.csv", draws=0)
    assert "wanted a table, whose name ends in" in fails(capsys, "score", "run", "people.csv", "--out", "o.txt")
    assert "is in the data that are read" in fails(capsys, "score", "run", "people.csv", "--out", "people.csv")
    np.save("x.npy", np.random.default_rng(0).normal(size=(50, 3)))
    assert main(["train", "x.npy", "--out", "reals", *TINY]) == 0
    assert "reals was not trained on a table" in fails(capsys, "score", "reals", "people.csv", "--out", "o.csv")


@pytest.mark.filterwarnings("always")
@pytest.mark.usefixtures("folder")
def test_a_category_that_was_never_seen_is_a_warning_or_an_error(capsys):
    rows = Path("people.csv").read_text().splitlines()
    Path("west.csv").write_text(rows[0] + "\nw1;30;900,5;west;\nw2;31;;north;0\n")
    assert main(["score", "run", "west.csv", "--out", "w.csv", *FEW]) == 0
    said = capsys.readouterr().err
    assert "column 'region': 1 values were never seen, 'west'; they are taken together as one value never seen" in said
    assert "column 'region': the model gives any value never seen 0.00" in said
    refused = fails(capsys, "score", "run", "west.csv", "--out", "w2.csv", "--strict", *FEW)
    assert "column 'region': 1 values were never seen, 'west'" in refused
    assert main(["impute", "run", "west.csv", "--out", "filled.csv", *FEW]) == 0
    assert [row[3] for row in cells("filled.csv")] == ["region", "west", "north"]  # it is not a gap
    assert capsys.readouterr().err.count("values were never seen") == 1


@pytest.mark.usefixtures("folder")
def test_conditions_that_no_row_can_meet_are_told_in_one_line(capsys):
    draw = ["sample", "run", "--count", "3", "--out", "o.csv", "--given"]
    assert "'regoin' is neither a column nor given; there are age" in fails(capsys, *draw, "regoin=north")
    assert "given 'age': wanted NAME=VALUE" in fails(capsys, *draw, "age")
    assert "no row can have 'west'; wanted one of" in fails(capsys, *draw, "region=west")
    assert "no row can have '-3', which is beyond" in fails(capsys, *draw, "age=-3")
    assert "no row can have '30.5', whose resolution is 1" in fails(capsys, *draw, "age=30.5")
    assert "'old' where a count is wanted" in fails(capsys, *draw, "age=old")
    assert "no row can lie above 30.2 and below 30.8, whose resolution is 1" in fails(
        capsys, *draw, "age>30.2,age<30.8"
    )
    assert "its values have no order" in fails(capsys, *draw, "region>=north")
    assert "something else is said of 'age', too" in fails(capsys, *draw, "age=30", "--given", "age=31")
    assert "temperature=0.5 is of draws from the prior" in fails(capsys, *draw, "age=30", "--temperature", "0.5")
    words = ["sample", "run", "--count", "3", "--out", "o.csv", "--importance-samples", "9"]
    assert "applies only with --given" in fails(capsys, *words)
    fill = ["impute", "run", "people.csv", "--out", "o.csv"]
    assert "--method gibbs is of draws; give --draws M, too" in fails(capsys, *fill, "--method", "gibbs")
    assert "--point mean is of one table" in fails(capsys, *fill, "--point", "mean", "--draws", "2")
    assert "--array x is for a .npz file" in fails(
        capsys, "encode", "run", "people.csv", "--out", "z.csv", "--array", "x"
    )


@pytest.mark.filterwarnings("always")
@pytest.mark.usefixtures("folder")
def test_what_few_particles_draw_far_out_is_said(capsys):
    assert main(["sample", "run", "--count", "3", "--out", "far.csv", "--given", "age>100000"]) == 0
    assert "effective sample size of 10000 is below 10" in capsys.readouterr().err
    assert read_frame("far.csv")["age"].min() > 100_000


@pytest.mark.usefixtures("folder")
def test_rows_are_drawn_and_gaps_are_filled_within_ranges(capsys):
    draw = ["sample", "run", "--count", "200", "--out", "o.csv", "--given"]
    assert main([*draw, "age>=30,age<40,region=north", "--given", "income=?"]) == 0
    assert float(capsys.readouterr().out.split("effective sample size ")[1].replace(",", "")) > 100
    drawn = read_frame("o.csv")
    assert 30 <= drawn["age"].min() <= drawn["age"].max() == 39
    assert set(drawn["region"]) == {"north"}
    assert all(value in (None, "") or value != value for value in drawn["income"])
    whole = cells("people.csv")
    assert (
        main(["impute", "run", "people.csv", "--out", "f.csv", *FEW, "--given", "age>=70", "--given", "region=?"]) == 0
    )
    for old, new in zip(whole[1:], cells("f.csv")[1:], strict=True):
        assert int(new[1]) >= 70 if not old[1] else new[1] == old[1]
        assert new[3] == old[3]
    gaps = sum(not cell for row in whole[1:] for i, cell in enumerate(row) if i != 3)
    assert f"{gaps} gaps filled" in capsys.readouterr().out
    run = al.Run("run")
    assert set(run.sample_rows(50, {"age": (30, 31), "income": None})["age"]) <= {30, 31}
    for found, wanted in zip(run.encode(read_frame("people.csv")), run.encode("people.csv"), strict=True):
        np.testing.assert_array_equal(found[0], wanted[0])
    many = run.impute("people.csv", 2, samples=20, given={"age": (70, None)})
    assert all(min(one["age"][i] for i, row in enumerate(whole[1:]) if not row[1]) >= 70 for one in many)


def test_discrete_latents_are_trained_with_their_own_objective(capsys):
    people(Path("people.csv"))
    words = ["train", "people.csv", "--drop", "who", "--latent-family", "bernoulli", *TINY]
    assert main([*words, "--out", "run"]) == 0
    assert "bernoulli latents: the objective is loo, with 4 particles" in capsys.readouterr().err
    assert main([*words, "--out", "more", "--samples", "3", "--beta", "0.5"]) == 0
    assert "bernoulli latents: the objective is loo, with 3 particles" in capsys.readouterr().err
    assert main([*words, "--objective", "vimco", "--out", "four"]) == 0
    assert json.loads(Path("four/config.json").read_text())["command"]["samples"] == 4
    assert "use al.loo or al.vimco (--objective loo)" in fails(capsys, *words, "--objective", "iwae")


@pytest.mark.usefixtures("folder")
def test_training_goes_on_as_if_nothing_had_happened(monkeypatch):
    shutil.copy("people.csv", "mine.csv")
    words = ["train", "mine.csv", "--drop", "who", *TINY]
    assert main([*words, "--out", "whole"]) == 0
    assert main([*words, "--out", "parts"]) == 0
    assert main(["train", "mine.csv", "--out", "parts", "--resume"]) == 0
    assert Path("whole/metrics.jsonl").read_bytes() == Path("parts/metrics.jsonl").read_bytes()


@pytest.mark.usefixtures("folder")
def test_a_column_that_is_given_is_not_modelled_and_comes_back(capsys):
    whole = [row for row in cells("people.csv") if row[3]]
    with open("whole.csv", "w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(whole)
    words = ["--drop", "who", *TINY, "--epochs", "1"]
    assert main(["train", "whole.csv", "--out", "given", "--given", "region", *words]) == 0
    assert "the model is of x given region, 3 categories (east, north, south)" in capsys.readouterr().err
    run = al.Run("given")
    assert run.schema.names == ("age", "income", "rain")
    assert main(["evaluate", "given", "--json", *FEW]) == 0
    assert main(["sample", "given", "--count", "30", "--out", "s.csv"]) == 0
    assert set(read_frame("s.csv")["region"]) == {"east", "north", "south"}
    assert main(["sample", "given", "--count", "5", "--out", "n.csv", "--given", "region=north,age=44"]) == 0
    assert set(read_frame("n.csv")["region"]) == {"north"}
    assert set(read_frame("n.csv")["age"]) == {44}
    assert main(["impute", "given", "whole.csv", "--out", "f.csv", *FEW]) == 0
    assert [row[3] for row in cells("f.csv")] == [row[3] for row in whole]
    assert main(["score", "given", "whole.csv", "--out", "c.csv", *FEW]) == 0
    assert main(["encode", "given", "whole.csv", "--out", "z.csv"]) == 0
    train = ["train", "people.csv", "--out", "bad", *words, "--given"]
    assert "column 'region' has gaps, in" in fails(capsys, *train, "region")
    assert "--given names 'regoin', which is no column" in fails(capsys, *train, "regoin")


@pytest.mark.usefixtures("folder")
@pytest.mark.filterwarnings("default:age. given, not modelled")
def test_several_columns_are_given(capsys):
    whole = [row for row in cells("people.csv") if row[1] and row[3]]
    with open("whole.csv", "w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(whole)
    words = ["--drop", "who", *TINY, "--epochs", "1"]
    assert main(["train", "whole.csv", "--out", "two", "--given", "region", "--given", "age", *words]) == 0
    assert "given region, 3 categories (east, north, south); age, 1 number" in capsys.readouterr().err
    for words_of in (["impute", *FEW], ["score", *FEW], ["encode"]):
        assert main([words_of[0], "two", "whole.csv", "--out", f"{words_of[0]}.csv", *words_of[1:]]) == 0
    assert main(["evaluate", "two", "--json", *FEW]) == main(["diagnose", "two", "--examples", "20"]) == 0
    drawn = "sample two --count 40 --out t.csv --given"
    again = drawn.replace("t.csv", "u.csv")
    assert main([*drawn.split(), "region=north,age>=30,age<40"]) == 0
    ages = {int(row[1]) for row in whole[1:] if row[3] == "north" and 30 <= int(row[1]) < 40}
    assert set(read_frame("t.csv")["age"]) <= ages
    assert main([*again.split(), "region=north,age=33,rain=0"]) == 0
    assert set(read_frame("u.csv")["age"]) == {33}
    assert "given age=12.5: no training example agrees with it; say what else" in fails(
        capsys, *drawn.replace("t.csv", "v.csv").split(), "age=12.5"
    )
    assert main([*drawn.replace("t.csv", "w.csv").split(), "rain=0,region=east"]) == 0
    assert "age: given, not modelled, and so drawn as in the training data" in capsys.readouterr().err
    assert "'age' is named twice" in fails(capsys, "train", "whole.csv", "--out", "bad", *words, "--given", "age,age")
    both = ["train", "whole.csv", "--out", "bad", *words, "--given", "age", "--drop", "age"]
    assert "column 'age' is given, and is to be left out" in fails(capsys, *both)


def test_a_value_never_seen_is_weighed_beside_what_is_given(tmp_path):
    rng = np.random.default_rng(0)
    town, sex = np.array(["Rom", "Ulm"], object)[rng.integers(0, 2, 40)], np.array(["f", "m"], object)
    frame = {"town": town, "sex": sex[rng.integers(0, 2, 40)], "x": rng.normal(size=40)}
    write_frame(frame, tmp_path / "t.csv")
    words = ["train", str(tmp_path / "t.csv"), "--given", "sex", "--out", str(tmp_path / "cat"), *TINY]
    assert main(words) == 0
    row = {"town": np.array(["Bern"], object), "sex": np.array(["f"], object), "x": np.zeros(1)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert al.Run(tmp_path / "cat").score(row, samples=5).isfinite().all()
    assert any("the model gives any value never seen 0.0" in str(warning.message) for warning in caught)


def test_what_the_demo_of_a_table_says_next_works(monkeypatch, capsys):
    monkeypatch.setattr(table_demo, "EPOCHS", 1)
    monkeypatch.setattr(table_demo, "IMPORTANCE_SAMPLES", 5)
    monkeypatch.setattr(table_demo, "fit", lambda *args, **more: al.fit(*args, **more | {"lr_warmup": 0}))
    assert main(["demo", "--table"]) == 0
    out = capsys.readouterr().out
    assert "independent columns     4" in out
    assert "sex, share of wrong ones" in out
    assert "nan" not in out
    words = next(line for line in out.splitlines() if "allegory sample" in line).split()
    assert main(words[1:]) == 0
    assert set(read_frame("more.csv")["sex"]) == {"b"}


def test_every_code_of_a_gap_is_one_from_the_file_to_the_run():
    rng = np.random.default_rng(0)
    rows = [[f"{n}", w] for n, w in zip(rng.integers(20, 60, 300), rng.choice(["a", "b", "c"], 300), strict=True)]
    for i, code in enumerate(["-9", "-99", "?", ""]):
        for row in rows[10 * i : 10 * i + 10]:
            row[0] = code
    rows[50][1] = "?"
    with open("x.csv", "w", newline="") as file:
        csv.writer(file).writerows([["age", "kind"], *rows])
    assert main(["train", "x.csv", "--out", "run", "--gaps", "?,-9,-99", *TINY, "--epochs", "1"]) == 0
    run = al.Run("run")
    x = run.read("x.csv")
    assert x.isnan().sum(0).tolist() == [40, 1]
    assert x[~x[:, 0].isnan(), 0].min() >= 20
    assert sum(int(part.isnan().sum()) for part in (run.data.train, run.data.valid, run.data.test)) == 41
    assert run.impute("x.csv", samples=10)["age"].min() >= 20


def test_gaps_that_say_something(capsys):
    """Incomes above 1,500 are not recorded, and the gaps of two other columns are data."""
    head, *rows = cells(people(Path("all.csv")))
    rows = [[*row[:2], "" if row[2] and float(row[2].replace(",", ".")) > 1500 else row[2], *row[3:]] for row in rows]
    with open("people.csv", "w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([head, *rows])
    words = ["train", "people.csv", "--drop", "who", *TINY]
    meaning = ["--missing-above", "income=1500,age", "--indicators", "region,rain"]
    assert main([*words, "--out", "runs/run", *meaning]) == 0
    told = "log p(x_o, s): of what is observed, and of s, which values of age, income, region, rain are missing"
    assert told in capsys.readouterr().err
    run = al.Run("runs/run")
    assert [column.missing for column in run.schema.columns] == ["above", "above", "indicated", "indicated"]
    assert main(["evaluate", "runs/run", *FEW]) == 0
    assert told in capsys.readouterr().out
    assert main(["evaluate", "runs/run", "--json", *FEW]) == 0
    assert json.loads(capsys.readouterr().out)["gaps"] == ["age", "income", "region", "rain"]
    for command in (["runs", "runs"], ["diagnose", "runs/run", "--examples", "20"]):
        assert main(command) == 0
        assert told in capsys.readouterr().out
    assert main(["score", "runs/run", "people.csv", "--out", "scores.csv", *FEW]) == 0
    assert told in capsys.readouterr().out
    assert main(["sample", "runs/run", "--count", "200", "--out", "new.csv"]) == 0
    new = read_frame("new.csv", delimiter=";", decimal=",")
    assert any(region is None for region in new["region"])
    assert np.isnan(new["rain"]).any()
    assert not np.isnan(new["income"]).any()
    filled = run.impute("people.csv", samples=20)
    assert (filled["income"][[row[2] == "" for row in rows]] >= 1500).all()
    assert (run.sample_rows(50, {"region": "north"})["income"] < 1500).any()  # what is not known is not missing
    assert main(["report", "runs/run", "--examples", "20", "--importance-samples", "10"]) == 0
    assert "which values of age, income, region, rain are missing" in Path("runs/run/report.html").read_text()


def test_what_cannot_be_said_of_gaps_is_one_line(capsys):
    people(Path("people.csv"))
    words = ["train", "people.csv", "--drop", "who", "--out", "run", *TINY]
    for said, message in [
        (["--missing-above", "income=1500"], "and values above 1500 are said to be missing; wanted a limit"),
        (["--missing-above", "pay=1500"], "--missing-above names 'pay', which is no column"),
        (["--indicators", "pay"], "--indicators names 'pay', which is no column"),
        (["--missing-below", "region"], "column 'region' is categorical, whose values are not large or small"),
        (["--missing-above", "age=old"], "column 'age': 'old' where a count is wanted"),
    ]:
        assert message in fails(capsys, *words, *said)
    with open("people.csv") as file:
        lines = [line.rstrip("\n") + f";{i % 7}\n" for i, line in enumerate(file)]
    Path("people.csv").write_text("".join(lines).replace("rain;0", "rain;week", 1))
    assert "column 'week' has no gaps" in fails(capsys, *words, "--missing-above", "week=7")


def test_what_is_said_of_columns_that_are_not_modelled_is_refused(capsys):
    people(Path("people.csv"))
    words = ["train", "people.csv", "--out", "run", *TINY]
    for said, message in [
        (
            ["--missing-above", "income", "--drop", "who,income"],
            "column 'income' is not modelled, since it is left out",
        ),
        (["--column", "region=ordinal", "--drop", "who,region"], "wanted nothing said of it in columns"),
        (["--exposure", "age", "--column", "age=categorical", "--drop", "who"], "and said to be categorical"),
    ]:
        assert message in fails(capsys, *words, *said)
    assert "--latent-categories 4 applies only to --latent-family one_hot" in fails(
        capsys, *words, "--latent-categories", "4"
    )


def test_a_column_that_is_left_out_is_not_written_over_by_a_result_of_its_name(capsys):
    Path("marks.csv").write_text("score,mark\n" + "".join(f"r{i},{i % 7}\n" for i in range(60)))
    assert main(["train", "marks.csv", "--out", "run", "--drop", "score", *TINY]) == 0
    assert "column 'score', which the training left out" in fails(
        capsys, "score", "run", "marks.csv", "--out", "scores.csv"
    )
    assert main(["encode", "run", "marks.csv", "--out", "codes.csv"]) == 0
    assert read_frame("codes.csv")["score"][0] == "r0"


def test_codes_without_a_leading_zero_are_the_text_that_they_were():
    zips, lines = ("01234", "12345", "98765"), ["zip,n,none"]
    lines += [f"{zips[i % 3]},{i % 7}," for i in range(60)]
    Path("zips.csv").write_text("\n".join(lines) + "\n")
    assert main(["train", "zips.csv", "--out", "zips", *TINY]) == 0
    Path("new.csv").write_text("zip,n,none\n12345,1,\n98765,2,\n12345,3,\n")
    run = al.Run("zips")
    scores = run.score("new.csv")
    zips = np.array(["12345", "98765", "12345"], object)
    frame = {"zip": zips, "n": np.array([1, 2, 3]), "none": np.full(3, np.nan)}
    torch.testing.assert_close(scores, run.score(frame))
    assert scores.max() < 9


def test_a_year_is_no_date():
    lines = [f"2023-0{1 + i % 9}-{10 + i % 17},{i % 7}" for i in range(80)]
    Path("days.csv").write_text("day,n\n" + "\n".join(lines) + "\n")
    assert main(["train", "days.csv", "--out", "days", *TINY]) == 0
    run = al.Run("days")
    for wanted in (2023, (2023, None), (20230601, None), np.int64(2023), np.float64(2023)):
        with pytest.raises(ValueError, match=r"given 'day': \S*2023\S* where a datetime is wanted, such as"):
            run.sample_rows(5, given={"day": wanted})
    with pytest.raises(ValueError, match=r"NaT.* where a datetime is wanted"):
        run.sample_rows(5, given={"day": np.datetime64("NaT")})
    days = run.sample_rows(20, given={"day": ("2023-06-01", None)})["day"]
    assert days.min() >= np.datetime64("2023-06-01")
