"""What every test's process does once."""

import gc

# Minutes of work that come last by name: what is last and long is waited for by idle cores.
FIRST = {"test_config.py", "test_docs_site.py", "test_readme.py", "test_startup.py"}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in FIRST)


def pytest_collection_finish():
    """The collector never again looks at what is loaded by now: a fifth of the suite's time."""
    gc.collect()
    gc.freeze()
