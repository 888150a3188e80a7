"""The file of a store: what is written is there, and what is wrong with it is said."""

import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persrec.errors import UserError
from persrec.serving import store as stores
from persrec.serving.disk import DATA, LOCKS, StoreError, current
from persrec.serving.entries import ABOUT, MOST, PIECE, cursor_key, key_of, user_of
from persrec.serving.store import Store

LINES = """
import sys
from persrec.errors import UserError
from persrec.serving.disk import StoreError
from persrec.serving.entries import cursor_key, key_of
from persrec.serving.store import Store
path = sys.argv[1]
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "store", {"what": "ever"}) as made:
        yield made


def another_process(path: Path, lines: str, *before: str) -> str:
    """What these lines print, or the message that ends them."""
    command = [*before, sys.executable, "-c", LINES + lines, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


@given(st.one_of(st.integers(0, 2**64 - 1), st.text(max_size=100)))
def test_a_key_is_of_one_user(user: int | str) -> None:
    assert user_of(key_of(user)) == user


def test_known_keys() -> None:
    assert [key_of(user).hex(" ") for user in (7, "7", 0, 256)] == ["11 07", "20 37", "11 00", "12 01 00"]
    numbers = sorted(random.Random(0).choices(range(10**6), k=100))
    assert sorted(map(key_of, numbers)) == [key_of(number) for number in numbers], "in the order of the numbers"


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (-1, "user -1: expected a whole number from 0 to 18446744073709551615, or text"),
        ("é" * 300, r"user 'é{40}'...: the id has 600 bytes, expected at most 500"),
    ],
)
def test_ids_that_cannot_be_keys(user: int | str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        key_of(user)


def test_what_was_written_is_there_when_it_is_opened_again(store: Store) -> None:
    store.write({key_of(1): b"one", key_of("two"): b"", key_of(3): b"three"}, {cursor_key("a"): b'{"rows": 5}'})
    store.write({key_of(1): b"uno", key_of(3): None})
    store.close()
    with Store.open(store.path) as opened:
        assert opened.get([key_of(1), key_of("two"), key_of(3), key_of(4)]) == [b"uno", b"", None, None]
        assert dict(opened.records()) == {key_of(1): b"uno", key_of("two"): b""}
        assert opened.every() == [key_of(1), key_of("two")]
        assert opened.about() == {"format": stores.FORMAT, "what": "ever"}
        assert opened.cursor("a") == {"rows": 5}
        assert opened.cursor("b") is None


def test_records_of_any_length(store: Store) -> None:
    lengths = [0, 1, PIECE, PIECE + 1, 3 * PIECE, MOST * PIECE, MOST * PIECE + 1, 100_000]
    for shift in range(len(lengths)):  # every length in the place of every other one
        written = {
            key_of(user): random.Random(user).randbytes(lengths[(user + shift) % len(lengths)])
            for user in range(len(lengths))
        }
        store.write(written)
        assert dict(store.records()) == written
    store.write(dict.fromkeys(written))
    assert store._env.stat()["entries"] == 1, "no piece is left behind"


def test_a_store_grows_by_itself(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.close()
    monkeypatch.setattr(stores, "FIRST_MAP", 1 << 15)
    with Store.open(store.path, write=True) as opened:
        for user in range(5):
            opened.write({key_of(100 * user + index): bytes(5000) for index in range(100)})
        assert len(opened.every()) == 500


LOOKING = """
with Store.open(path) as opened:
    while True:
        keys = opened.every()
        print(len(keys), opened.get(keys[-1:]), opened.file_bytes() > 0, flush=True)
        sys.stdin.readline()
"""


class Reader:
    """Another process that has a store open."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", LINES + LOOKING, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.found = self._line()

    def look(self) -> str:
        """How many users there are, and the record of the last one."""
        print(file=self.process.stdin, flush=True)
        return self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_others_read_beside_the_one_that_writes(store: Store) -> None:
    """Also when the map has grown since they opened it."""
    with Reader(store.path) as reader:
        assert reader.found == "0 [] True"
        store.write({key_of(user): bytes(10_000) for user in range(3000)} | {key_of(3000): b"last"})
        assert store._env.info()["map_size"] > stores.FIRST_MAP
        assert reader.look() == "3001 [b'last'] True"


@pytest.mark.parametrize("users", [100, stores.COPIED + 5001])
@pytest.mark.parametrize("writes", [0, 1])
def test_readers_go_over_to_a_compact_store(store: Store, users: int, writes: int) -> None:
    """Whatever the numbers of the transactions: LMDB chooses between two pages by them."""
    store.write({key_of(user): b"%d" % user for user in range(users)})
    for _ in range(writes):
        store.write({key_of(0): b"zero"})
    with Reader(store.path) as reader:
        for step in range(4):
            store.compact()
            assert len(store.every()) == users
            assert reader.look() == f"{users} {[store.get([key_of(users - 1)])[0]]} True"
            for count in range(step + 1):
                store.write({key_of(users - 1): b"%d %d" % (step, count)})
            assert reader.look() == f"{users} [b'{step} {step}'] True"
    store.close()
    assert another_process(store.path, "print(len(Store.open(path).every()))") == str(users)
    assert len([*store.path.glob("data-*")]) == 1, "the folders before are gone"


def test_readers_open_a_store_that_is_compacted_all_the_time(store: Store) -> None:
    store.write({key_of(user): b"%d" % user for user in range(100)})
    lines = """
for _ in range(300):
    with Store.open(path) as opened:
        assert len(opened.every()) == 100
print("done")
"""
    command = [sys.executable, "-c", LINES + lines, str(store.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as reader:
        while reader.poll() is None:
            store.compact()
        assert reader.stdout is not None
        assert reader.stdout.read().strip() == "done"


KILLED = """
import os
left = [int(sys.argv[2])]
def step(event, arguments):
    left[0] -= event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree")
    if left[0] < 0:
        os.kill(os.getpid(), 9)
"""


def killed_at_each_step(path: Path, lines: str) -> Iterator[int]:
    """After each kill its number; a step is whatever asks the system for a file or folder."""
    killed, said = 0, ""
    while not said:
        command = [sys.executable, "-c", LINES + KILLED + lines, str(path), str(killed)]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        yield killed
        killed += 1


def test_a_compaction_that_is_killed_at_any_step(store: Store) -> None:
    written = {key_of(user): b"%d" % user for user in range(50)}
    store.write(written)
    store.close()
    lines = """
with Store.open(path, write=True) as opened:
    sys.addaudithook(step)
    opened.compact()
    left[0] = 1000
print("done")
"""
    for step in killed_at_each_step(store.path, lines):
        with Store.open(store.path) as opened:
            assert dict(opened.records()) == written, step
    assert step > 8
    with Store.open(store.path, write=True) as opened:
        opened.write({key_of(50): b"50"})
        assert len([*store.path.glob("data-*")]) == 1, "what was left is removed"
    with Store.open(store.path) as opened:
        assert len(opened.every()) == 51


def test_a_store_whose_making_is_killed_at_any_step(tmp_path: Path) -> None:
    lines = """
sys.addaudithook(step)
Store.create(path + "/" + sys.argv[2], {"what": "ever"})
left[0] = 1000
print("done")
"""
    whole = 0
    for step in killed_at_each_step(tmp_path, lines):
        path = tmp_path / str(step)
        whole += Store.there(path)
        with Store.open(path) if Store.there(path) else Store.create(path, {"what": "ever"}) as opened:
            assert opened.about() == {"format": stores.FORMAT, "what": "ever"}
        assert len([*path.glob("data-*")]) == 1
    assert step + 1 > whole > 0


def test_a_second_writer_is_refused_at_once(store: Store) -> None:
    said = another_process(store.path, "Store.open(path, write=True)")
    assert said.endswith(f"is being written by process {os.getpid()}; wait until that is done, one at a time can write")
    assert another_process(store.path, "Store.open(path); print('read')") == "read"
    store.close()
    assert another_process(store.path, "Store.open(path, write=True); print('written')") == "written"


def test_one_store_is_opened_once_in_a_process(store: Store) -> None:
    with pytest.raises(UserError, match="is open in this process already; close the Recommender or Store that has it"):
        Store.open(store.path)


@pytest.mark.parametrize("bytes_of_a_record", [150, 700, 1400, 2100, 3000, 6000, 20_000])
def test_a_compact_file_is_little_larger_than_its_records(store: Store, bytes_of_a_record: int) -> None:
    chance = random.Random(0)
    users = chance.sample(range(10**6), 4_000_000 // bytes_of_a_record)
    written = {key_of(user): chance.randbytes(round(bytes_of_a_record * chance.uniform(0.8, 1.2))) for user in users}
    keys = list(written)
    for start in range(0, len(keys), 500):
        store.write({key: written[key] for key in keys[start : start + 500]})
    store.compact()
    assert dict(store.records()) == written
    assert store.file_bytes() <= 1.6 * sum(len(key) + len(value) for key, value in written.items())
    store.write({keys[0]: b"new"})
    store.close()
    with Store.open(store.path) as opened:
        assert opened.get(keys[:2]) == [b"new", written[keys[1]]]


def test_what_was_removed_is_not_in_a_compact_file(store: Store) -> None:
    store.write({key_of(user): b"secret %d" % user for user in range(50)})
    store.write({key_of(7): None})
    store.compact()
    store.close()
    contents = (current(store.path) / DATA).read_bytes()
    assert b"secret 7" not in contents
    assert b"secret 8" in contents


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is none; make it with `persrec compress RUN --store .*nowhere`"):
        Store.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_store_or_file_in_the_way(store: Store, tmp_path: Path) -> None:
    store.close()
    with pytest.raises(UserError, match="is there already; choose another folder or delete it"):
        Store.create(store.path, {})
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"store .*file: cannot be used \(\[Errno 17\] File exists"):
        Store.create(tmp_path / "file", {})


@pytest.mark.parametrize("about", [b'{"format": 0}', b"{}", b"torn"])
def test_a_store_of_another_format(store: Store, about: bytes) -> None:
    store.write({}, {ABOUT: about})
    store.close()
    with pytest.raises(StoreError, match=r"got store format (0|None), expected 4; it was written by another version"):
        Store.open(store.path)


def test_a_store_of_the_first_format(tmp_path: Path) -> None:
    (tmp_path / DATA).write_bytes(b"records")
    with pytest.raises(UserError, match="got store format 1, expected 4; it was written by another version"):
        Store.open(tmp_path)
    with pytest.raises(UserError, match="is there already; choose another folder or delete it"):
        Store.create(tmp_path, {})


def test_records_that_are_not_there(store: Store) -> None:
    store.close()
    shutil.rmtree(current(store.path))
    for write in (False, True):
        with pytest.raises(StoreError, match=r"data.mdb is not there; restore a copy, or delete the folder and"):
            Store.open(store.path, write=write)


def test_a_file_that_is_cut_off(store: Store) -> None:
    store.write({key_of(user): bytes(1000) for user in range(1000)})
    store.close()
    size = (current(store.path) / DATA).stat().st_size
    os.truncate(current(store.path) / DATA, size // 2)
    with pytest.raises(
        StoreError, match=rf"data.mdb is cut off: {size // 2:,} bytes, expected at least [\d,]+; restore"
    ):
        Store.open(store.path)


def test_a_file_that_is_no_store(store: Store) -> None:
    store.close()
    (current(store.path) / DATA).write_bytes(b"something else" * 1000)
    with pytest.raises(StoreError, match=r"data.mdb is damaged or no store \(.*not an LMDB file\); restore a copy"):
        Store.open(store.path)


def test_a_page_that_is_damaged_is_noticed_or_not_in_use(store: Store) -> None:
    chance = random.Random(0)
    for _ in range(5):
        users = chance.sample(range(10**6), 200)
        store.write({key_of(user): chance.randbytes(chance.randrange(100, 3000)) for user in users})
    store.close()
    lines = """
import random
chance = random.Random(0)
from pathlib import Path
from persrec.serving.disk import current
file = current(Path(path)) / "data.mdb"
whole = file.read_bytes()
with Store.open(path) as opened:
    records = dict(opened.records())
seen = [0, 0]
for page in (0, 1, *chance.sample(range(2, len(whole) // 4096), 60)):
    for other in (bytes(4096), chance.randbytes(4096)):
        file.write_bytes(whole[: 4096 * page] + other + whole[4096 * (page + 1) :])
        try:
            with Store.open(path, write=True) as opened:
                assert dict(opened.records()) == records
            seen[0] += 1
        except UserError as error:
            assert "damaged" in str(error) or page < 2, error
            seen[1] += 1
print(seen)
"""
    sound, damaged = map(int, another_process(store.path, lines).strip("[]").split(","))
    assert damaged > sound > 0
    assert sound + damaged == 124


def without_rights() -> list[str]:
    """What a command begins with so that permissions hold for it, whoever runs the tests."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() == 0 and setpriv is None:
        pytest.skip("needs setpriv to give up what root may do")
    rights = "-dac_override,-dac_read_search"
    return [str(setpriv), "--bounding-set", rights, "--inh-caps", rights] if os.geteuid() == 0 else []


def test_an_account_that_cannot_say_that_it_reads(store: Store) -> None:
    """Another one may write, and would take the pages that are being read."""
    store.write({key_of(1): b"one"})
    (current(store.path) / LOCKS).chmod(0o444)
    said = another_process(store.path, "Store.open(path)", *without_rights())
    folder = current(store.path).name
    assert f"store {store.path}: this account cannot write to {folder}/lock.mdb, where readers stand" in said
    assert "let it write to this file (chmod g+w), or read a copy of the folder" in said


def test_a_compact_store_may_be_used_by_whom_the_one_before_was(store: Store) -> None:
    for name, mode in ((".", 0o750), (DATA, 0o640), (LOCKS, 0o660)):
        (current(store.path) / name).chmod(mode)
    store.compact()
    modes = [(current(store.path) / name).stat().st_mode & 0o777 for name in (".", DATA, LOCKS)]
    assert modes == [0o750, 0o640, 0o660]


def test_a_folder_that_can_only_be_read(store: Store) -> None:
    store.write({key_of(1): b"one"})
    store.close()
    before = without_rights()
    for path in (*store.path.rglob("*"), store.path):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        assert another_process(store.path, "print(Store.open(path).get([key_of(1)]))", *before) == "[b'one']"
        said = another_process(store.path, "Store.open(path, write=True)", *before)
    finally:
        for path in (store.path, current(store.path)):
            path.chmod(0o755)
    assert "cannot be written (Permission denied); it can still be read: change its permissions to write" in said


def test_a_full_disk_loses_nothing(store: Store) -> None:
    store.write({key_of(user): b"%d" % user for user in range(100)}, {cursor_key("a"): b'{"rows": 100}'})
    store.close()
    limit = (current(store.path) / DATA).stat().st_size + 100_000
    lines = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
with Store.open(path, write=True) as opened:
    for part in range(1, 1000):
        try:
            opened.write({{key_of(100 * part + index): bytes(1000) for index in range(100)}},
                         {{cursor_key("a"): b'{{"rows": %d}}' % (100 * part + 100)}})
        except StoreError as error:
            print(part, error)
            break
"""
    part, _, said = another_process(store.path, lines).partition(" ")
    assert said.startswith(f"store {store.path}: the disk is full or fails (")
    assert said.endswith("); nothing that was committed is lost: make room and repeat")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    with Store.open(store.path, write=True) as opened:
        assert opened.cursor("a") == {"rows": 100 * int(part)}
        assert len(opened.every()) == 100 * int(part)
        assert opened.get([key_of(42)]) == [b"42"]
        opened.write({key_of(user): bytes(1000) for user in range(100_000, 100_500)})
        assert len(opened.every()) == 100 * int(part) + 500
