"""What holds for all tests."""

from importlib.util import find_spec

if find_spec("hypothesis"):  # not where the hosts of persrec.plug are tested
    from hypothesis import settings

    settings.register_profile("persrec", deadline=None)  # machines are shared: a slow moment is no fault
    settings.load_profile("persrec")
