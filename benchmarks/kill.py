"""Is anything lost or applied twice when an update is killed, again and again, at random moments?

    python benchmarks/kill.py --json benchmarks/results/kill.json

A store of 200 users is updated with 20,000 events by `persrec update`, 100 of them a transaction; the process gets
SIGKILL after a random number of transactions and up to 30 ms, and the command is repeated. After each kill the events
in the records are held against the cursor, and in the end every byte of the records against those of an update that
nobody disturbed. The model is untrained: its weights do not matter here. Duplicates are kept, as dropping them would
hide an event that is applied twice.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import machine
from tests.serving.killing import contents, finish, kill_and_resume, stores_of, update

USERS, EVENTS, ROWS = 200, 20_000, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=machine.file_for_rows, help="file for the row")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, store, file = stores_of(Path(folder), users=USERS, events=EVENTS)
        undisturbed = store.with_name("undisturbed")
        shutil.copytree(store, undisturbed)
        finish(update(run, undisturbed, file, ROWS))
        found = kill_and_resume(run, store, file, ROWS, arguments.kills, arguments.seed)
        machine.write(arguments.json, [{**found._asdict(), "equal": contents(store) == contents(undisturbed)}])


if __name__ == "__main__":
    main()
