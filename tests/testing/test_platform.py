"""The science platform of the tests: a real Butler server, signed URLs, and a network that fails when it is told to."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests
from lsst.daf.butler import Butler

from ..support.platform.science_platform import HOST, Platform, Published
from ..support.platform.settings import TOKEN, Settings
from ..support.ranks import ROOT

TIMEOUT = 10.0


def signed(repository: Published) -> str:
    """Return the signed URL of the first file."""
    butler = Butler.from_config(repository.url, collections=repository.collections)
    return str(butler.getURI(butler.query_datasets("deep_coadd", find_first=True)[0]))


def get(url: str, **headers: str) -> requests.Response:
    return requests.get(url, headers=headers, timeout=TIMEOUT)


@pytest.mark.parametrize("name", ["dp2", "dp1"])
def test_a_client_finds_and_reads_what_is_on_disk(platform: Platform, name: str) -> None:
    repository = platform.published(name)
    with Butler.from_config(repository.root, collections=repository.collections) as local:
        refs = local.query_datasets("deep_coadd")
        patches = local.query_dimension_records("patch")
        expected = Path(local.getURI(refs[0]).ospath).read_bytes()
    remote = Butler.from_config(repository.url, collections=repository.collections)
    assert set(remote.query_datasets("deep_coadd")) == set(refs)
    assert len(remote.query_dimension_records("patch")) == len(patches)
    url = str(remote.getURI(refs[0]))
    part = get(url, Range="bytes=0-79")
    assert (part.status_code, part.content) == (206, expected[:80])
    assert part.headers["Content-Range"] == f"bytes 0-79/{len(expected)}"
    assert get(url).content == expected
    assert get(url, Range="bytes=-10").content == expected[-10:]
    assert get(url, Range=f"bytes={len(expected)}-").status_code == 416


def test_the_permanent_url_leads_to_a_signed_one(remote_dp2: Published, platform: Platform) -> None:
    butler = Butler.from_config(remote_dp2.url, collections=remote_dp2.collections)
    ref = butler.query_datasets("deep_coadd")[0]
    platform.reset()
    answer = get(f"{remote_dp2.url}v1/dataset/{ref.id}/download", Authorization=f"Bearer {TOKEN}", Range="bytes=0-5")
    assert (answer.status_code, answer.content) == (206, b"SIMPLE")
    assert platform.counters().signatures == 1
    api, data = platform.log()
    assert (api.port, api.status, api.headers["authorization"]) == ("api", 307, f"Bearer {TOKEN}")
    assert (data.port, data.status, data.bytes, data.range) == ("data", 206, 6, "bytes=0-5")
    assert "authorization" not in data.headers


@pytest.mark.parametrize(
    ("expired", "status", "words"),
    [("aws", 403, "Request has expired"), ("gcs", 400, "<Code>ExpiredToken"), ("401", 401, "expired")],
)
def test_an_expired_url_is_refused(
    platform: Platform, remote_dp2: Published, expired: str, status: int, words: str
) -> None:
    url = signed(remote_dp2)
    platform.set(expire_after=1e-6, expired=expired)
    refused = get(url)
    assert refused.status_code == status
    assert words in refused.text
    platform.set(expire_after=3000)
    assert get(url).status_code == 200
    platform.set(fault="expired", fault_n=1)
    assert [get(url).status_code, get(url).status_code] == [status, 200]


def test_what_must_not_be_sent_is_refused(platform: Platform, remote_dp2: Published) -> None:
    url = signed(remote_dp2)
    both = get(url, Authorization=f"Bearer {TOKEN}")
    assert (both.status_code, "Only one auth mechanism allowed" in both.text) == (400, True)
    assert platform.log("data")[-1].headers["authorization"] == f"Bearer {TOKEN}"
    assert "SignatureDoesNotMatch" in get(url.replace("Signature=", "Signature=x")).text
    assert get(url.partition("?")[0]).status_code == 403
    platform.set(deleted="/deep_coadd/")
    assert (get(url).status_code, "AccessDenied" in get(url).text) == (403, True)


def test_the_ingress_asks_for_a_token(platform: Platform, remote_dp2: Published) -> None:
    assert get(f"{remote_dp2.url}butler.yaml").status_code == 200
    assert get(platform.index).text.count("http://") == 2
    url = f"{remote_dp2.url}v1/universe"
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert get(url).status_code == 401
    assert get(url, Authorization="Bearer gt-other.token").status_code == 401
    assert get(url, **bearer).status_code == 200
    platform.set(token_scope=True)
    assert get(url, **bearer).json()["detail"][0]["msg"] == "Token missing required scope"
    platform.set(token_revoked=True)
    assert get(url, **bearer).status_code == 401
    platform.reset()
    platform.set(api_fault="503", api_n=1, retry_after=7)
    busy = get(url, **bearer)
    assert (busy.status_code, busy.headers["Retry-After"]) == (503, "7")
    assert get(url, **bearer).status_code == 200


def test_queries_beyond_the_limit_wait(platform: Platform, remote_dp2: Published) -> None:
    platform.set(query_limit=1, query_hold=0.5, query_retry_after=1)
    url, headers = f"{remote_dp2.url}v1/query/execute", {"Authorization": f"Bearer {TOKEN}"}
    with subprocess.Popen(
        [sys.executable, "-c", f"import requests; requests.post({url!r}, headers={headers!r}, timeout=9)"]
    ) as other:
        end = time.monotonic() + TIMEOUT
        while not platform.log() and time.monotonic() < end:
            time.sleep(0.02)
        refused = requests.post(url, headers=headers, timeout=TIMEOUT)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert other.wait(TIMEOUT) == 0


def test_faults_of_the_store(platform: Platform, remote_dp2: Published) -> None:
    url = signed(remote_dp2)
    whole = get(url).content
    for fault in ("close", "short"):
        platform.set(fault=fault, fault_n=1)
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            get(url)
        assert platform.log("data")[-1].fault == fault
        assert get(url).content == whole
    platform.set(fault="hang", fault_n=1)
    with pytest.raises(requests.Timeout):
        requests.get(url, timeout=0.2)
    platform.set(fault="login", fault_n=0)
    assert "Please log in" in get(url).text
    platform.set(fault="429", retry_after=3)
    assert (get(url).status_code, get(url).headers["Retry-After"]) == (429, "3")
    platform.set(fault="", drop=1.0)
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        get(url)
    platform.set(drop=0.0, no_ranges=True)
    answer = get(url, Range="bytes=0-9")
    assert (answer.status_code, answer.content) == (200, whole)
    with pytest.raises(ValueError, match="fault='storm' must be a status or one of"):
        platform.set(fault="storm")


def test_the_network_is_slow_or_lost(platform: Platform, remote_dp2: Published) -> None:
    url = signed(remote_dp2)
    size = len(get(url).content)
    platform.set(rate=size / 0.3, rtt=0.05)
    began = time.monotonic()
    assert len(get(url).content) == size
    assert time.monotonic() - began > 0.3
    platform.set(rate=0.0, rtt=0.0, away=0.3)
    with requests.Session() as session:
        with pytest.raises(requests.ConnectionError):
            session.get(url, timeout=TIMEOUT)
        time.sleep(0.4)
        assert session.get(url, timeout=TIMEOUT).status_code == 200
    platform.reset()
    assert (platform.log(), platform.settings) == ([], Settings())


@pytest.mark.slow
def test_the_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.support.platform.science_platform import Platform\n"
        f"with Platform(Path({str(tmp_path)!r})) as platform:\n"
        "    print(platform._server.pid, platform._front.pid, platform.ports['data'], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        *pids, port = map(int, process.stdout.readline().split())
        children = [psutil.Process(pid) for pid in pids]
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=TIMEOUT)
    assert not alive
    with pytest.raises(requests.ConnectionError):
        get(f"http://{HOST}:{port}/")
