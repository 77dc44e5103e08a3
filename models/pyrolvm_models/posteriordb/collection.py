"""The collection by name: its problems, their data and their reference draws, whose files are downloaded once and verified.

Files are those of one commit of posteriordb, https://github.com/stan-dev/posteriordb (BSD 3-Clause). Where ``PYROLVM_DATA`` names a
folder, they are read from its folder ``posteriordb``, which is laid out as the source's ``posterior_database``.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

import pyrolvm as lvm
from pyrolvm_models._files import damaged, fetch, verify
from pyrolvm_models.posteriordb import (
    eight_schools,
    gaussian_processes,
    hidden_markov,
    mixtures,
    odes,
    regressions,
    time_series,
)
from pyrolvm_models.posteriordb._data import Array, Data, Draw, Maker, ToSites, Volume

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "DESIGNS",
    "PROBLEMS",
    "TO_SITES",
    "VOLUMES",
    "Data",
    "Draw",
    "columns",
    "data",
    "names",
    "posteriordb",
    "reference",
]

SOURCE = "https://raw.githubusercontent.com/stan-dev/posteriordb/28f8d3d6e975315f42aa274a8399f21e07a43b30/posterior_database/"
DATA, DRAWS = "data/data", "reference_posteriors/draws/draws"
"""Folders of the source."""

_MODULES = (eight_schools, time_series, gaussian_processes, hidden_markov, mixtures, odes, regressions)

PROBLEMS: dict[str, Maker] = {name: make for module in _MODULES for name, make in module.PROBLEMS.items()}
"""Makes the problem from the fields of its data set, by the posterior's name."""

TO_SITES: dict[str, ToSites] = {**eight_schools.TO_SITES, **time_series.TO_SITES}
"""Values of the sampled sites from one reference draw, where that holds transformed parameters instead."""

VOLUMES: dict[str, Volume] = {**gaussian_processes.VOLUMES}
"""The difference of the log densities, where the reference's is of other coordinates."""

DESIGNS = regressions.DESIGNS
"""Design matrix and outcome of the regressions with flat priors, whose posteriors have a closed form."""

_SHARED = {"eight_schools-eight_schools_centered": "eight_schools-eight_schools_noncentered"}
"""Whose reference draws a posterior has, where it has no own."""

_CHECKSUMS = {
    "arK": "6f2acbacb04655927bfc9173c42e51fc330bf08c6184242a62b7e39c22abe410",
    "arma": "354e7d7bb05ee08a3deeac45ce1d92ae11964a696b933ba82a3a0cfe134eb45a",
    "bball_drive_event_0": "6bee0a0bb09619784dcaa39ad5c7141626745df03eada28e144d14590f038117",
    "diamonds": "127d44a642f954b707bec2d82725e168d57a412d59487708794d4a17097f26ba",
    "earnings": "06a67aa61a99d59aee057486dae51ffad6b4f887e7f8f17733739cf893af312f",
    "eight_schools": "8e37cc01fe05b0e1779255e9bd386261f3d61daf7f75f02f72f38cdc9750531c",
    "garch": "056100504a96a72ee6be6af80228d26189dea7343a30df6ecfefac70cc9b3957",
    "gp_pois_regr": "9aaaa9d5694b74e2aefa6d0bd2f0a48637fcb4d455a74b33985e58154f285da9",
    "hmm_example": "8c346cc7627db1b5614b1eacb81ab9b0926aa63071ba2f3b6d6ec3b492892787",
    "hudson_lynx_hare": "36d116efc116fee9c9e7286df5545cbf11d08171c4f48b84476740464a4e33ec",
    "kidiq": "16d341a99ec8178231eab660d8fda084a44145f6a241daf35276d0192d13b92d",
    "kidiq_with_mom_work": "0c82d40ace4c75bba4bc8824d4ece044e1d5f8700d479ea672001ab475254913",
    "kilpisjarvi_mod": "232e8c55bbe5c07b79b0b28c92917f71711c713579292a2f40a50bda279d968e",
    "low_dim_gauss_mix": "9b5ea284321417a7816b0426a0c96788a6824e6ceb4ec4ecd89493779720b8f9",
    "mesquite": "ec9db3a2e390892473e6172d76386ba9b26c3633a9682532eb34217189dcb0ac",
    "nes1972": "8ccd9cb76d3259b331414a971958a4a6edfcb8897029d5999231bb7d5823197e",
    "nes2000": "4170d5780771b54b763315b5c21772befd4ca208c62d23424535f4b4af347439",
    "one_comp_mm_elim_abs": "67f9ae02f88a9fb73c7ae38fc9b3e245f776d0bd2d34169cc96fbdfe6e93be68",
    "sblrc": "81990278b8762ac79244afcd470861560c7b28e34e411ce6da814e6f632a1b81",
    "sblri": "e975f6641b5e08d65cb1e3519f1d0370939afbc82bfbeb3c1f5a07e5bbd717a7",
    "arK-arK": "7ddb947e6c1ac5380f9c1e1fa101833a1236ef03de30f2cf5ece7b5b71841530",
    "arma-arma11": "6de4bfe5263e09b0421b15368da42720b3ddc2559f81b35e178a18ce05e299b9",
    "bball_drive_event_0-hmm_drive_0": "6f35a3d930c3f031cbe44fac75ade1207794b535cdff1641c17fa8592d251330",
    "diamonds-diamonds": "2745f4857ceb358ff6c692ba1dd1fd9d01cf8bc5ac456ae87e3c957fd51c4aae",
    "earnings-earn_height": "d70aad60517d530938f24d6841db87ce66ac1448e9f8d9a5bb5621edf53a4ced",
    "earnings-log10earn_height": "422234d96eb2f08e7134d19cdd167c7a4fe980e88c572deac4798c60a0d8151c",
    "earnings-logearn_interaction": "c34de19c290f25513686448cc1b0caff8248c97a1e47b5646d2af1d1f254707b",
    "earnings-logearn_logheight_male": "7541d1289703ac5416d4dda806c4d96383f43d4abd6392b584d90ce34178da5c",
    "eight_schools-eight_schools_noncentered": "0858641e630c877103dba2b78beaf6bc1f39435fc43d2894c4dff5d609c7a264",
    "garch-garch11": "5a56df72455394fec4bca2b8186432be76c8b8ecabfa43eff15bf19308edbf18",
    "gp_pois_regr-gp_pois_regr": "0e8b39f525d6723ac6b0972fcf27d54185893825174ed8e7eec468d25fa8b7e8",
    "gp_pois_regr-gp_regr": "df89f5011d9518b06c95a631c258ce03f4818b78deb40ed069cfd1d70074c8bb",
    "hmm_example-hmm_example": "cd67e28247da25233d79d09df235075c6603735e45c28fdfa76125e515ece3cf",
    "hudson_lynx_hare-lotka_volterra": "1d2124d283c104fb8faeb8c65b68e3fa22e39665accdac95979238587f85314b",
    "kidiq-kidscore_interaction": "acac3c394dfeb65ced6f14ddf20b5a5c075d7a80ae663d1d71f904c16d207065",
    "kidiq-kidscore_momiq": "ee5deb23bf2dad804393c682b308da720825f9b099c37d774526c3a5a590e8d7",
    "kidiq_with_mom_work-kidscore_interaction_c": "5cf2e956ada413797dbb40896a826d60a7c6b61d9e91209f6f4b0ace6c5c53c1",
    "kilpisjarvi_mod-kilpisjarvi": "a5bc7f19720bfaa073bc6ab16c837aa1ff921014bad09ea715494ed4723b9fad",
    "low_dim_gauss_mix-low_dim_gauss_mix": "422de750b20aef29c7b86f6bfa88dd9759050b6ffeb3588c004d6a4861c1e776",
    "mesquite-logmesquite_logvas": "3d5aead1b3a6e158dc17c3a097c77bb79031c702f413f65f721f4f30d196c81c",
    "mesquite-mesquite": "48f9a22ba3e5ae08c80fca3974a5db1341356bfd7eb3dc9f7df4c15ac1505ce4",
    "nes1972-nes": "59deb232b508701047fecfb8005e37995c6a5e446ca711ffe654d8dc0ded6697",
    "nes2000-nes": "1b62971bd0ee49024afd2e77a3e0e2a10729a6b0ecf5d801f51233481b48cd74",
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": "04e5c64679f5c3043295bae7c7e81dd5fe6487d89f165300e0f075e1ab8dc751",
    "sblrc-blr": "44f876cf35a038fcd1fd13fb19bbadf04b4308618ad41390050ae8b014a4592d",
    "sblri-blr": "4e1f20dc9ccc45e1b05d0b67ee83b9a2ffdd21c90ca576549571940b5c4369e8",
}
"""SHA-256 of the files of data sets and of reference draws."""


def names() -> list[str]:
    """The posteriors that there are, by posteriordb's names.

    >>> "garch-garch11" in posteriordb.names()
    True
    """
    return sorted(PROBLEMS)


def posteriordb(*, posterior: str) -> lvm.Problem:
    """A posterior of posteriordb, with reference draws to compare with.

    Sites are named as there. ``reference(posterior)`` of this package has the draws.

    Args:
        posterior: Its name, as ``"kidiq-kidscore_momiq"``; one of :func:`names`.

    Returns:
        The problem, in double precision.

    Raises:
        ArgumentError: There is no such posterior, or it is not translated.
        DataError: Its data are not there and cannot be downloaded, or they are not what was published.
    """
    return PROBLEMS[_known(posterior)](data(posterior))


def data(posterior: str) -> dict[str, Any]:
    """The fields of a posterior's data set: numbers and nested lists of numbers.

    Raises:
        ArgumentError: There is no such posterior, or it is not translated.
        DataError: The file is not there and cannot be downloaded, or it is not what was published.
    """
    found: dict[str, Any] = _read(DATA, _known(posterior).partition("-")[0])
    return found


def columns(posterior: str) -> dict[str, Array]:
    """The reference draws by posteriordb's names, as ``beta[1]``: ten chains of 1,000, each of shape ``(10, 1000)``.

    Raises:
        ArgumentError: There is no such posterior, or it is not translated.
        DataError: The file is not there and cannot be downloaded, or it is not what was published.
    """
    chains = _read(DRAWS, _SHARED.get(_known(posterior), posterior))
    return {name: np.array([chain[name] for chain in chains], dtype=float) for name in chains[0]}


def reference(posterior: str) -> xr.DataTree:
    """The reference draws, 10,000 of Stan's NUTS, as ArviZ's tree: what ``lvm.compare`` takes beside results of its own.

        >>> fit = lvm.infer(lvm.problem("posteriordb", posterior="garch-garch11"), seed=0)
        >>> tree = posteriordb.reference("garch-garch11")
        >>> lvm.compare({"infer": fit, "posteriordb": tree}, reference="posteriordb").methods

    Their Monte Carlo error is about 0.01 sd for a mean. Draws are near to independent: they were thinned by ten.

    Args:
        posterior: Its name; one of :func:`names`.

    Returns:
        A tree whose group ``posterior`` has dims ``chain`` (10), ``draw`` (1,000), and those of each site.

    Raises:
        ArgumentError: There is no such posterior, or it is not translated.
        DataError: The file is not there and cannot be downloaded, or it is not what was published.

    References:
        Magnusson et al., posteriordb: Testing, Benchmarking and Developing Bayesian Inference Algorithms,
        https://arxiv.org/abs/2407.04967
    """
    import arviz_base as azb

    parts: dict[str, list[Array]] = {}
    found = columns(posterior)
    for name, values in found.items():
        parts.setdefault(name.partition("[")[0], []).append(values)
    sites = {name: each[0] if name in found else np.stack(each, -1) for name, each in parts.items()}
    tree: xr.DataTree = azb.from_dict({"posterior": sites}, attrs={"posterior": {"inference_method": "reference"}})
    return tree


def _known(posterior: str) -> str:
    if posterior not in PROBLEMS:
        raise lvm.ArgumentError(
            f"posteriordb: no posterior {posterior!r} is translated. Fix: use one of {', '.join(names())}."
        )
    return posterior


def _read(folder: str, name: str) -> Any:
    """The JSON of a file that holds one."""
    file = f"{name}.json.zip"
    content = fetch(f"posteriordb/{folder}", file, f"{SOURCE}{folder}/")
    verify(file, content, _CHECKSUMS[name])
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            (inside,) = (each for each in archive.namelist() if each.endswith(".json"))
            return json.loads(archive.read(inside))
    except (zipfile.BadZipFile, ValueError) as error:
        raise damaged(file, str(error)) from None
