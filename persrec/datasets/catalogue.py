"""The data sets that we know: where they come from, on which terms, what they hold, and which file goes where.

Counts are those of the events that the reader gives (rated items only, for instance), and None where neither the
publisher nor we have counted them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from persrec import datasets
from persrec.errors import UserError
from persrec.recipe.faults import suggestion
from persrec.recipe.sections import DATASETS_VARIABLE, expand

GROUPLENS: Final = "https://files.grouplens.org/datasets/movielens"
SNAP: Final = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
MCAULEY: Final = "https://mcauleylab.ucsd.edu/public_datasets/data"
RESEARCH: Final = "research; no redistribution"
UNSTATED: Final = "not stated"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set; its files stand in a folder of its name, below the folder of all data sets."""

    name: str
    about: str
    page: str  # where a person reads about it
    source: str  # data.source
    terms: str
    file: str  # that is read; "" is the whole folder
    users: int | None = None
    items: int | None = None
    events: int | None = None
    folder: str = ""  # "" is the name
    url: str | None = None  # of the file, or of a zip with it; None: nobody may download it without asking
    inside: str = ""  # folder of the zip that holds the members
    members: tuple[str, ...] = ()  # of the zip that are kept
    checksum: str | None = None  # URL of the publisher's MD5
    by_hand: str = ""  # what to do where there is no url
    other: str = ""  # a file beside it, the same log as a table, which some recipes read

    def path(self, root: Path) -> Path:
        """What is read, below the folder of all data sets."""
        return root / (self.folder or self.name) / self.file

    def is_there(self, root: Path) -> bool:
        """Whether there is something to read."""
        path = self.path(root)
        if self.file:
            return path.is_file()
        try:
            return path.is_dir() and bool(datasets.files(self.source, path))
        except UserError:
            return False

    def table(self, root: Path) -> Path | None:
        """The same log as a table, where that is there."""
        path = root / (self.folder or self.name) / self.other
        return path if self.other and path.is_file() else None

    @property
    def size(self) -> str:
        """Its counts, as far as they are known."""
        counts = ((self.users, "users"), (self.items, "items"), (self.events, "events"))
        return ", ".join(f"{count:,} {what}" for count, what in counts if count is not None) or "counts not stated"

    def advice(self, root: Path) -> str:
        """How a person gets it without us."""
        how = self.by_hand or f"download {self.url}"
        return f"{how}, so that there is {self.path(root)} ({self.page}; terms: {self.terms})"


def _movielens(name: str, edition: str, file: str, *, titles: str, inside: str = "", **known: Any) -> DataSet:
    return DataSet(
        name=name,
        about=f"MovieLens {edition}: ratings of films, with times",
        page=f"https://grouplens.org/datasets/movielens/{edition.lower()}/",
        source="movielens",
        terms=RESEARCH,
        file=file,
        url=f"{GROUPLENS}/{name}.zip",
        inside=inside or name,
        members=(file, titles),
        checksum=f"{GROUPLENS}/{name}.zip.md5",
        **known,
    )


def _amazon_2014(name: str, category: str, users: int, items: int, events: int) -> DataSet:
    file = f"reviews_{category}_5.json.gz"
    return DataSet(
        name=name,
        about=f"Amazon 2014, {category.replace('_', ' ')}, 5-core: reviews, times are days",
        page="https://jmcauley.ucsd.edu/data/amazon/",
        source="amazon",
        terms=UNSTATED,
        file=file,
        url=f"{SNAP}/{file}",
        users=users,
        items=items,
        events=events,
        other="interactions.csv",
    )


DATA_SETS: Final[tuple[DataSet, ...]] = (
    _movielens("ml-100k", "100K", "u.data", titles="u.item", users=943, items=1_682, events=100_000),
    _movielens(
        "ml-1m", "1M", "ratings.dat", titles="movies.dat", users=6_040, items=3_706, events=1_000_209,
        other="interactions.parquet",
    ),
    DataSet(
        name="ml-1m-sasrec",
        about="MovieLens 1M as the SASRec benchmark file: order only, items with five ratings or more",
        page="https://github.com/kang205/SASRec",
        source="sasrec",
        terms=RESEARCH,
        folder="ml-1m",
        file="ml-1m_sasrec.txt",
        url="https://raw.githubusercontent.com/kang205/SASRec/master/data/ml-1m.txt",
        users=6_040,
        items=3_416,
        events=999_611,
    ),
    _movielens(
        "ml-10m", "10M", "ratings.dat", titles="movies.dat", inside="ml-10M100K",
        users=69_878, items=10_677, events=10_000_054,
    ),
    _movielens("ml-20m", "20M", "ratings.csv", titles="movies.csv", users=138_493, items=26_744, events=20_000_263),
    _movielens("ml-25m", "25M", "ratings.csv", titles="movies.csv", users=162_541, items=59_047, events=25_000_095),
    _movielens("ml-32m", "32M", "ratings.csv", titles="movies.csv", users=200_948, events=32_000_204),
    _movielens("ml-latest", "latest", "ratings.csv", titles="movies.csv"),  # grows
    _movielens(
        "ml-latest-small", "latest", "ratings.csv", titles="movies.csv", users=610, items=9_724, events=100_836
    ),
    _amazon_2014("amazon-beauty", "Beauty", 22_363, 12_101, 198_502),
    _amazon_2014("amazon-sports", "Sports_and_Outdoors", 35_598, 18_357, 296_337),
    _amazon_2014("amazon-toys", "Toys_and_Games", 19_412, 11_924, 167_597),
    DataSet(
        name="amazon-games",
        about="Amazon 2018, Video Games, in RecBole's form: histories in order, cut at 50, no times",
        page="https://nijianmo.github.io/amazon/",
        source="table",
        terms=UNSTATED,
        file="Games.inter",
        users=50_546,
        items=16_859,
        events=440_264,
        by_hand="make it as UniSRec and its followers do (user_id, item_id_list and item_id, one user per row)",
    ),
    DataSet(
        name="amazon-2018-games",
        about="Amazon 2018, Video Games, 5-core: reviews, times are days",
        page="https://nijianmo.github.io/amazon/",
        source="amazon",
        terms=UNSTATED,
        file="Video_Games_5.json.gz",
        url=f"{MCAULEY}/amazon_v2/categoryFilesSmall/Video_Games_5.json.gz",
        users=55_223,
        items=17_408,
        events=497_577,
    ),
    DataSet(
        name="amazon-2023-games",
        about="Amazon 2023, Video Games, 5-core: ratings, times in milliseconds",
        page="https://amazon-reviews-2023.github.io/data_processing/5core.html",
        source="amazon",
        terms="research; see the page",
        file="Video_Games.csv.gz",
        url=f"{MCAULEY}/amazon_2023/benchmark/5core/rating_only/Video_Games.csv.gz",
        users=94_762,
        items=25_612,
        events=814_586,
    ),
    DataSet(
        name="online-retail",
        about="UCI Online Retail: invoice lines of a shop, times in minutes",
        page="https://archive.ics.uci.edu/dataset/352/online+retail",
        source="online-retail",
        terms="CC BY 4.0; cite Chen et al. 2012",
        file="",
        users=4_339,
        items=3_665,
        events=397_924,
        by_hand="download the Excel sheet there and save it in this folder with its columns, as parquet or as csv with "
        "times such as 2010-12-01 08:26",
    ),
    DataSet(
        name="globo-news",
        about="Clicks on globo.com, October and November 2017, times in milliseconds",
        page="https://www.kaggle.com/datasets/gspmoreira/news-portal-user-interactions-by-globocom",
        source="globo-news",
        terms="see the page; Kaggle account",
        file="",
        users=322_897,
        items=46_033,
        events=2_988_181,
        by_hand="download it there and join its hourly csv files to clicks.parquet (or one csv)",
    ),
    DataSet(
        name="merrec",
        about="MerRec: six months of a second-hand market; over 5 million users, 80 million listings, 1 billion events",
        page="https://huggingface.co/datasets/mercari-us/merrec",
        source="merrec",
        terms="CC BY-NC 4.0",
        file="",
        by_hand="download it there, or some of its shards, one folder per month",
    ),
    DataSet(
        name="ebnerd",
        about="EB-NeRD: news clicks at Ekstra Bladet, 2023; demo, small or large, with over a million users",
        page="https://recsys.eb.dk/",
        source="ebnerd",
        terms="research; registration",
        file="",
        by_hand="register there, download a bundle and unpack it (train/ and validation/)",
    ),
)  # fmt: skip


def find(name: str) -> DataSet:
    """The data set of a name; raises UserError with near names."""
    known = {one.name: one for one in DATA_SETS}
    if name not in known:
        raise UserError(f"datasets get {name}: unknown{suggestion(name, list(known))} (`persrec datasets` lists them)")
    return known[name]


def where_from(path: Path) -> str:
    """A sentence on how to come by a file where a data set is looked for; nothing of other files."""
    for one in DATA_SETS:
        published, get = one.path(root()), f" `persrec datasets get {one.name}` gets"
        if path == published:
            return f"{get} it." if one.url else f" It comes from {one.page}: {one.by_hand}."
        if one.other and path == published.with_name(one.other):
            way = f"--set 'data={{source: {one.source}, path: {published}}}'"
            return f"{get} the log as it was published; read that by {way}."
    return ""


def root() -> Path:
    """The folder of all data sets: where PERSREC_DATASETS says, else data/raw."""
    return Path(expand(f"${{{DATASETS_VARIABLE}}}"))
