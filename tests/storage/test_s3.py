"""S3 when it is slow, forgetful, foreign or closed."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import uuid4

import boto3
import pytest

from ray_si.errors import RaySIError, StorageError, StorageLostError
from ray_si.run.run import Run
from ray_si.run.seeds import load_seeds
from ray_si.storage import s3
from ray_si.storage.objects import open_objects
from ray_si.storage.s3 import S3Objects
from tests.faults.flaky_s3 import FAULTS, FlakyS3


@pytest.fixture
def location(s3_environment):
    return f"s3://runs/{uuid4().hex}/run"


@pytest.fixture
def through(s3_environment, s3_server):
    """Starts a proxy in front of the server and points the environment at it."""
    proxies = []

    def start(**options):
        proxies.append(FlakyS3(s3_server["AWS_ENDPOINT_URL"], **options).__enter__())
        s3_environment(proxies[-1].url)
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.__exit__()


@pytest.fixture
def quick(monkeypatch):
    """Fewer tries and shorter pauses, where it is known that all fail."""
    monkeypatch.setattr(s3, "_ATTEMPTS", 2)
    monkeypatch.setattr(s3, "_CHECK_ATTEMPTS", 2)


def test_everything_holds_while_a_tenth_of_the_calls_fails(location, through):
    proxy = through(seed=3, hold_s=0.3)
    objects = open_objects(location)
    wins = []

    def work(k):
        objects.put(f"blocks/{k:03d}", str(k).encode() * 100)
        wins.append(objects.put_if_absent(f"locks/{k // 4}", b"equal bytes"))
        assert objects.get(f"blocks/{k:03d}") == str(k).encode() * 100
        objects.put(f"blocks/{k:03d}", b"replaced")
        objects.put(f"gone/{k}", b"")
        objects.delete(f"gone/{k}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(80)))
    assert sum(wins) == 20
    assert list(objects.list("blocks/")) == [f"blocks/{k:03d}" for k in range(80)]
    assert list(objects.list("gone/")) == []
    assert all(objects.get(key) == b"replaced" for key in objects.list("blocks/"))
    assert set(proxy.befell) >= set(FAULTS) - {"altered"}
    assert proxy.befell.total() > 0.05 * proxy.requests.total()


def test_an_outage_is_waited_out_by_all_threads_that_read(location, through):
    class Outage(FlakyS3):
        def draw(self, method):
            super().draw(method)
            reads = self.requests["GET"]
            return ("500", "503", "cut")[reads % 3] if 0 < reads <= 48 else None

    through(share=0).__class__ = Outage
    open_objects(location).put("one", b"content")
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: open_objects(location).get("one"), range(16)))
    assert found == [b"content"] * 16


def test_more_requests_at_once_than_a_round_has_readers_need_no_new_connections(
    location, through, caplog
):
    class AtOnce(FlakyS3):
        def draw(self, method):
            super().draw(method)
            if method == "GET":
                self.together.wait(10)

    open_objects(location).put("one", b"content")
    proxy = through(share=0)
    proxy.__class__, proxy.together = AtOnce, Barrier(48)
    objects = open_objects(location)
    objects.put("two", b"")  # so that there is a client
    with ThreadPoolExecutor(48) as pool:
        list(pool.map(lambda _: objects.get("one"), range(48)))
    assert "pool is full" not in caplog.text


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (404, "NoSuchBucket"), (403, "InvalidToken"), (501, "Unknown")],
)
def test_what_does_not_pass_is_asked_once(location, through, status, code):
    proxy = through(share=0, answers={"GET": (status, code)})
    with pytest.raises(RaySIError):
        open_objects(location).get("one")
    assert proxy.requests["GET"] == 1


@pytest.mark.parametrize(
    ("status", "code"), [(429, "Unknown"), (400, "RequestTimeout"), (502, ""), (503, "SlowDown")]
)
def test_what_passes_is_asked_again(location, through, quick, status, code):
    proxy = through(share=0, answers={"GET": (status, code)})
    with pytest.raises(StorageLostError):
        open_objects(location).get("one")
    assert proxy.requests["GET"] == 2


def test_only_the_part_of_an_upload_that_failed_is_sent_again(location, through, monkeypatch):
    class SecondPutFails(FlakyS3):
        def draw(self, method):
            super().draw(method)
            return "500" if method == "PUT" and self.requests["PUT"] == 2 else None

    monkeypatch.setattr(s3, "_LARGE", 5 << 20)
    proxy = through(share=0)
    proxy.__class__ = SecondPutFails
    open_objects(location).put("large", bytes(14 << 20))
    assert proxy.requests == {"POST": 2, "PUT": 4}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_large_object_survives_every_fault(location, through, fault):
    through(seed=5, share=0.3, faults=(fault,), hold_s=0.1)
    data = os.urandom(1 << 20) * 40
    objects = open_objects(location)
    objects.put("large", data)
    assert objects.get("large") == data


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_there_and_what_is_not_is_told_right_through_every_fault(location, through, fault):
    through(seed=6, share=0.3, faults=(fault,), hold_s=0.1)
    objects = open_objects(location)
    for k in range(4):
        objects.put(f"blocks/{k}", b"")
    for _ in range(3):
        assert list(objects.list("blocks/")) == [f"blocks/{k}" for k in range(4)]
        objects.check(write=True)
        with pytest.raises(KeyError):
            objects.get("absent")


def test_a_first_writer_whose_answer_is_lost_knows_that_it_won(location, through):
    class FirstPutForgotten(FlakyS3):
        def draw(self, method):
            super().draw(method)
            return "forgotten" if method == "PUT" and self.requests["PUT"] == 1 else None

    proxy = through(share=0)
    proxy.__class__ = FirstPutForgotten
    objects = open_objects(location)
    assert objects.put_if_absent("lock", b"equal bytes")
    assert proxy.requests["PUT"] == 2
    assert not objects.put_if_absent("lock", b"equal bytes")


class CompletionForgotten(FlakyS3):
    """Loses the answer to the second POST, which makes an object of an upload in parts.

    To the third, which asks once more, it knows of no such upload.
    """

    def draw(self, method):
        super().draw(method)
        posts = self.requests["POST"] if method == "POST" else 0
        self.answers = {"POST": (404, "NoSuchUpload")} if posts == 3 else {}
        return "forgotten" if posts == 2 else None


def test_what_is_too_large_for_one_request_is_written_in_parts_by_the_first(location, monkeypatch):
    monkeypatch.setattr(s3, "_MOST_AT_ONCE", 1 << 20)
    monkeypatch.setattr(s3, "_LARGE", 5 << 20)
    objects, data = open_objects(location), os.urandom(1 << 20) * 6
    assert objects.put_if_absent("large", data)
    assert not objects.put_if_absent("large", data[::-1])
    assert objects.get("large") == data
    written = boto3.client("s3").head_object(
        Bucket="runs", Key=f"{location.removeprefix('s3://runs/')}/large"
    )
    assert written["ETag"].endswith('-2"')  # of an object in two parts
    assert uploads(location.removeprefix("s3://runs/")) == []


def test_the_first_writer_in_parts_whose_answer_is_lost_knows_that_it_won(
    location, through, monkeypatch
):
    monkeypatch.setattr(s3, "_MOST_AT_ONCE", 1 << 20)
    through(share=0).__class__ = CompletionForgotten
    objects, data = open_objects(location), bytes(2 << 20)
    assert objects.put_if_absent("large", data)
    assert objects.get("large") == data


def test_a_move_whose_answer_is_lost_is_made_again(location, through):
    open_objects(location).put("source", bytes(9 << 20))  # boto3 copies it in parts
    through(share=0).__class__ = CompletionForgotten
    objects = open_objects(location)
    objects.move("source", "target")
    assert list(objects.list()) == ["target"]


def test_an_altered_answer_is_noticed(location, through, quick):
    open_objects(location).put("one", b"content")
    through(share=1, faults=("altered",))
    with pytest.raises(StorageError, match="is damaged: Expected checksum"):
        open_objects(location).get("one")


def test_silence_is_not_waited_for_beyond_the_timeout(location, through, quick):
    through(share=1, faults=("timeout",), hold_s=20)
    started = time.monotonic()
    with pytest.raises(StorageLostError, match=r"does not answer \(ReadTimeoutError\)"):
        S3Objects(location, timeout_s=0.3).get("one")
    assert time.monotonic() - started < 10


def test_a_store_that_fails_for_good_says_how_to_go_on(location, through, quick):
    through(share=1, faults=("503",))
    with pytest.raises(StorageLostError, match=r"SlowDown.* the same command goes on"):
        open_objects(location).put("one", b"1")


def test_a_write_that_raced_with_another_is_tried_again(location, through, quick):
    through(share=0, answers={"PUT": (409, "ConditionalRequestConflict")})
    with pytest.raises(StorageLostError, match="ConditionalRequestConflict"):
        open_objects(location).put_if_absent("lock", b"")


HEADER = {"config": {}, "identity": {}}


def test_a_store_that_ignores_conditions_is_refused_and_left_empty(location, through):
    through(share=0, drop_headers=frozenset({"if-none-match"}))
    with pytest.raises(StorageError, match="ignores the condition"):
        Run.prepare(location, HEADER, "fingerprint")
    assert list(open_objects(location).list()) == []


def test_a_store_that_ignores_conditions_costs_a_run_nothing(location, through):
    run = Run.prepare(location, HEADER, "fingerprint")
    with run.held():
        run.create(load_seeds("bundled")[0])
    before = {key: run.objects.get(key) for key in run.objects.list()}
    through(share=0, drop_headers=frozenset({"if-none-match"}))
    with pytest.raises(StorageError, match="ignores the condition"):
        Run.prepare(location, HEADER, "fingerprint")
    assert {key: run.objects.get(key) for key in run.objects.list()} == before


def test_a_store_that_refuses_conditions_is_named(location, through, quick):
    through(share=0, answers={"PUT": (501, "NotImplemented")})
    with pytest.raises(StorageError, match=r"refuses conditional writes.*\(it says: .*flaky"):
        open_objects(location).put_if_absent("lock", b"")


def test_what_is_larger_than_the_store_takes_is_not_to_be_tried_again(location, through, quick):
    through(share=0, answers={"PUT": (400, "EntityTooLarge")})
    with pytest.raises(StorageError, match="smaller shards") as caught:
        open_objects(location).put("large", b"")
    assert "the same command" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "AccessDenied", "no permission; a run needs s3:ListBucket"),
        (403, "InvalidAccessKeyId", "the credentials are refused"),
        (403, "SignatureDoesNotMatch", "the credentials are refused"),
        (400, "ExpiredToken", "the credentials have expired"),
        (301, "PermanentRedirect", "another region; set AWS_DEFAULT_REGION"),
        (400, "AuthorizationHeaderMalformed", "another region; set AWS_DEFAULT_REGION"),
        (403, "RequestTimeTooSkewed", "clock is wrong"),
    ],
)
def test_a_refusal_says_what_to_do(location, through, quick, status, code, message):
    through(share=0, answers={"GET": (status, code)})
    with pytest.raises(StorageError, match=rf"{message}.*\({code}: flaky\)") as caught:
        Run.open(location)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_permission_to_write_is_found_before_anything_is_written(location, through):
    through(share=0, answers={"POST": (403, "AccessDenied")})
    with pytest.raises(StorageError, match="no permission"):
        Run.prepare(location, HEADER, "fingerprint")


def uploads(prefix):
    answer = boto3.client("s3").list_multipart_uploads(Bucket="runs", Prefix=prefix)
    return [upload["Key"] for upload in answer.get("Uploads", ())]


def test_checking_leaves_no_upload_behind(location):
    open_objects(location).check(write=True)
    assert uploads(location.removeprefix("s3://runs/")) == []


def test_sweeping_takes_back_what_was_begun_and_nothing_of_others(location):
    prefix = location.removeprefix("s3://runs/")
    for key in (f"{prefix}/data/big", f"{prefix}-2/data/big"):
        boto3.client("s3").create_multipart_upload(Bucket="runs", Key=key)
    assert len(uploads(prefix)) == 2
    open_objects(location).sweep()
    assert uploads(prefix) == [f"{prefix}-2/data/big"]


def test_what_consoles_put_for_a_folder_is_no_content(location):
    prefix = location.removeprefix("s3://runs/")
    for key in (f"{prefix}/", f"{prefix}/data/"):
        boto3.client("s3").put_object(Bucket="runs", Key=key)
    Run.prepare(location, HEADER, "fingerprint")


def test_an_endpoint_is_asked_by_path(location, through):
    proxy = through(share=0)
    open_objects(location).put("one", b"1")
    assert proxy.requests["PUT"] == 1


@pytest.mark.parametrize("location", ["s3://", "s3:///run", "s3://b/../c", "s3://b//c"])
def test_a_location_without_sense_is_refused(location):
    with pytest.raises(StorageError):
        open_objects(location)


@pytest.mark.parametrize("url", ["localhost:9000", "ftp//x"])
def test_an_endpoint_without_sense_is_named(location, s3_environment, url):
    s3_environment(url)
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL_S3"):
        Run.open(location)
