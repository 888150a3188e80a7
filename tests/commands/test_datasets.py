from pathlib import Path

from click.testing import CliRunner

from persrec.commands.datasets import datasets
from persrec.datasets import catalogue
from persrec.errors import UserError
from persrec.recipe.file import shipped
from persrec.recipe.recipe import load


def test_every_data_set_is_listed_with_where_from_terms_counts_and_place(monkeypatch, tmp_path):
    monkeypatch.setenv("PERSREC_DATASETS", str(tmp_path))
    (tmp_path / "ml-100k").mkdir()
    (tmp_path / "ml-100k" / "u.data").touch()
    text = CliRunner().invoke(datasets).output
    assert all(f"\n{data.name}\n    {data.about}\n" in f"\n{text}" for data in catalogue.DATA_SETS)
    assert "943 users, 1,682 items, 100,000 events; terms: research; no redistribution" in text
    assert "from https://grouplens.org/datasets/movielens/100k/" in text
    assert f"data.source movielens, {tmp_path}/ml-100k/u.data: there\n" in text
    assert f"data.source movielens, {tmp_path}/ml-1m/ratings.dat: `persrec datasets get ml-1m`\n" in text
    assert f"data.source ebnerd, {tmp_path}/ebnerd: by hand: register there" in text
    assert CliRunner().invoke(datasets, ["list"]).output == text


def test_the_list_tells_what_can_be_read_from_what_cannot(monkeypatch, tmp_path):
    monkeypatch.setenv("PERSREC_DATASETS", str(tmp_path))
    for name in ("merrec", "ebnerd", "online-retail", "globo-news", "ml-1m/ratings.dat", "amazon-beauty/x"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("globo-news/clicks.parquet", "amazon-beauty/interactions.csv", "ml-1m/interactions.parquet"):
        (tmp_path / name).touch()
    lines = CliRunner().invoke(datasets).output.splitlines()
    states = {line.split()[2].rstrip(":"): line.partition(": ")[2] for line in lines if "data.source" in line}
    there = {path.removeprefix(f"{tmp_path}/") for path, state in states.items() if state == "there"}
    assert there == {"globo-news", "amazon-beauty/interactions.csv", "ml-1m/interactions.parquet"}
    assert states[f"{tmp_path}/merrec"].startswith("by hand: download it there")
    assert states[f"{tmp_path}/amazon-beauty/reviews_Beauty_5.json.gz"] == "`persrec datasets get amazon-beauty`"
    assert f"    data.source table, {tmp_path}/amazon-beauty/interactions.csv: there" in lines


def test_what_recipes_read_is_on_the_list(monkeypatch, tmp_path):
    monkeypatch.setenv("PERSREC_DATASETS", str(tmp_path))
    for name in shipped():
        data = load(name).data
        if data.path is not None:
            path = Path(data.path)
            (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
            (path if path.suffix else path / "online_retail.parquet").touch()
            assert f"data.source {data.source}, {path}: there\n" in CliRunner().invoke(datasets).output


def test_get_prints_what_a_recipe_needs(tmp_path):
    (tmp_path / "merrec").mkdir()
    done = CliRunner().invoke(datasets, ["get", "merrec", "--folder", str(tmp_path)])
    assert isinstance(done.exception, UserError)
    assert "datasets get merrec: cannot be downloaded without asking" in str(done.exception)
    import polars as pl

    rows = {"user_id": [1], "product_id": [2], "stime": ["2023-05-01 12:00:00"], "event_id": ["item_view"]}
    pl.DataFrame(rows).write_parquet(tmp_path / "merrec" / "0.parquet")
    done = CliRunner().invoke(datasets, ["get", "merrec", "--folder", str(tmp_path)])
    assert done.exit_code == 0
    assert done.stdout == f"data: {{source: merrec, path: {tmp_path}/merrec}}\n"
    assert "1 users, 1 items, 1 events." in done.stderr


def test_an_unknown_name():
    assert "unknown; did you mean ml-1m" in str(CliRunner().invoke(datasets, ["get", "ml-1n"]).exception)
