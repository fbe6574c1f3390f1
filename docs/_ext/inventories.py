"""Lists of names of other packages' documentation, for links into it."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

DAY = 24 * 60 * 60
# Top-level names of a package, where they are not its key.
NAMES = {
    "python": "collections|typing|pathlib|str|int|float|bool|dict|list|tuple|set|type|object|None"
    "|[A-Z][A-Za-z]*Error",
}


def inventories(sites: dict[str, str], cache: Path) -> tuple[dict, list]:
    """Fetch the lists, a copy of each being kept for a day.

    Parameters
    ----------
    sites
        Package -> address of its documentation.
    cache
        Folder of the copies. An old copy is used where there is no network.

    Returns
    -------
    ``intersphinx_mapping`` of the packages whose list is there, and ``nitpick_ignore_regex`` for
    the names of the others.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(len(sites)) as pool:
        files = list(
            pool.map(lambda site: _fetch(site[1], cache / f"{site[0]}.inv"), sites.items())
        )
    mapping, ignored = {}, []
    for (package, address), file in zip(sites.items(), files, strict=True):
        if file.is_file():
            mapping[package] = (address, str(file))
        else:
            ignored.append((r"py:.*", rf"({NAMES.get(package, package)})(\..*)?"))
    if ignored:
        missing = sorted(set(sites) - set(mapping))
        print(f"no links to {', '.join(missing)}: their lists of names cannot be fetched")
    return mapping, ignored


def _fetch(address: str, file: Path) -> Path:
    if file.is_file() and time.time() - file.stat().st_mtime < DAY:
        return file
    try:
        answer = requests.get(f"{address}objects.inv", timeout=10)
        answer.raise_for_status()
    except requests.RequestException:
        return file
    if answer.content.startswith(b"# Sphinx inventory"):  # not the page of a login or a proxy
        file.write_bytes(answer.content)
    return file
