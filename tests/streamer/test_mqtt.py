"""A broker is reached, or it is said in one sentence why not; what it has acknowledged it has, in order."""

import asyncio
import hashlib
import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import aiomqtt
import pytest
from broker_wire import Wire, a_closed_port, a_server_that, until
from brokers import Authority, Mosquitto, Pair, mosquitto
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from engines.errors import DeliveryError, UsageError
from engines.labels import SOCCERNET_LABELS
from streamer import cli, logs
from streamer.broker import EmbeddedBroker
from streamer.cloudevents import Event
from streamer.config import MqttConfig
from streamer.mqtt import ConnectFault, Will, address_of, connect, parse_broker_url, topics

SECRET = "s3cr3t"
T = TypeVar("T")


def said(n: int) -> Event:
    return Event({"specversion": "1.0", "id": str(n), "source": "/touchline/main", "type": "touchline.spot.v1"}, "{}")


async def first(messages: AsyncIterator[T], count: int) -> list[T]:
    """Return what arrives first."""
    found: list[T] = []
    async with asyncio.timeout(20):
        async for message in messages:
            found.append(message)
            if len(found) == count:
                break
    return found


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path) as server:
        yield server


async def attempt(url: str, environ: dict[str, str] | None = None, timeout_s: float = 5.0, **files: Any) -> int:
    """Return the version that a broker speaks with us."""
    address = address_of(MqttConfig(url, **files), environ or {})
    async with connect(address, timeout_s=timeout_s) as connection:
        return connection.version


# Versions


async def test_mqtt_5_is_spoken_where_the_broker_does(broker: Mosquitto) -> None:
    assert await attempt(broker.url) == 5


async def test_a_broker_of_mqtt_3_is_spoken_to_as_it_likes_and_remembered() -> None:
    async with EmbeddedBroker() as broker, Wire(broker.url) as wire:
        assert await attempt(wire.url) == 4
        assert wire.connections == 2
        assert await attempt(wire.url) == 4
        assert wire.connections == 3


async def test_a_broker_of_mqtt_3_is_not_waited_for_whatever_we_want_of_it() -> None:
    """amqtt misreads a longer CONNECT of MQTT 5, and waits for bytes that never come."""
    async with asyncio.timeout(5), EmbeddedBroker() as broker:
        address = parse_broker_url(broker.url.replace("//", f"//me:{SECRET}@"))
        async with connect(address, identifier="me", will=Will("a/status", said(0)), clean=False) as connection:
            assert connection.version == 4


async def test_a_broker_that_became_another_is_asked_again(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        assert await attempt(broker.url) == 5
        port = broker.port
    async with EmbeddedBroker(port=port):
        with suppress(ConnectFault):
            await attempt(broker.url, timeout_s=1)
        assert await attempt(broker.url) == 4


async def test_a_broker_that_hangs_up_when_it_hears_mqtt_5_is_asked_again() -> None:
    async def only_3(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await reader.read(100)
        if hello[8] == 4:
            writer.write(bytes([0x20, 2, 0, 0]))
            await reader.read(100)
        writer.close()

    async with await asyncio.start_server(only_3, "127.0.0.1", 0) as server:
        async with asyncio.timeout(3):
            assert await attempt(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}") == 4
    await asyncio.sleep(0.05)


# What is published


async def test_many_are_published_in_order_and_once(broker: Mosquitto, caplog: pytest.LogCaptureFixture) -> None:
    address = parse_broker_url(broker.url)
    async with connect(address) as reader, connect(address) as writer:
        await reader.subscribe(["a/#"])
        await writer.publish_many((f"a/{n % 2}", said(n)) for n in range(500))
        received = await first(reader.messages(), 500)
    assert [message.payload.decode() for message in received] == [said(n).json() for n in range(500)]
    assert caplog.text == ""


async def test_a_broker_that_takes_few_at_a_time_is_not_flooded(tmp_path: Path) -> None:
    """Mosquitto ends a connection that has more unacknowledged than it allows."""
    with mosquitto(tmp_path, "max_inflight_messages 3") as broker:
        async with connect(parse_broker_url(broker.url)) as connection:
            assert connection._paho._max_inflight_messages == 3
            await connection.publish_many(("a", said(n)) for n in range(200))


async def test_with_mqtt_5_the_attributes_go_along(broker: Mosquitto) -> None:
    address = parse_broker_url(broker.url)
    event = Event({"id": "1.é", "source": "/touchline/main", "type": "touchline.spot.v1"}, "{}")
    port = address.port
    async with (
        aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as reader,
        connect(address) as writer,
    ):
        await reader.subscribe("#")
        await writer.publish("a", event, qos=1)
        await writer.answer("b", event, b"which")
        one, other = [message.properties for message in await first(aiter(reader.messages), 2)]
    assert getattr(one, "UserProperty", None) == list(event.attributes.items())
    assert getattr(one, "ContentType", None) == "application/cloudevents+json; charset=utf-8"
    assert getattr(other, "CorrelationData", None) == b"which"


async def test_whoever_wants_an_answer_is_told_where_to_send_it(broker: Mosquitto) -> None:
    address = parse_broker_url(broker.url)
    async with (
        connect(address) as reader,
        aiomqtt.Client("127.0.0.1", address.port, protocol=aiomqtt.ProtocolVersion.V5) as writer,
    ):
        await reader.subscribe(["cmd"])
        more = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        more.ResponseTopic, more.CorrelationData = "mine", b"7"
        await writer.publish("cmd", b"{}", qos=1, properties=more)
        await writer.publish("cmd", b"{}", qos=1)
        heard = await first(reader.messages(), 2)
    assert [(one.response_topic, one.correlation) for one in heard] == [("mine", b"7"), (None, None)]


async def test_a_lost_connection_is_said_at_once_to_who_waits() -> None:
    async with (
        asyncio.timeout(5),
        EmbeddedBroker() as broker,
        Wire(broker.url) as wire,
        connect(parse_broker_url(wire.url), timeout_s=60) as connection,
    ):
        wire.deaf = True
        asyncio.get_running_loop().call_later(0.2, wire.cut)
        for _ in range(2):
            with pytest.raises(ConnectFault, match=rf"^{wire.url}: the connection was lost.*\.$"):
                await connection.publish("a", said(0), qos=1)


async def test_a_name_that_another_uses_is_not_fought_for() -> None:
    """As a broker of MQTT 5 may say it."""

    async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(bytes([0x20, 3, 0, 0, 0]))
        await reader.read(1000)
        writer.write(bytes([0xE0, 2, 142, 0]))
        writer.close()

    async with await asyncio.start_server(taken, "127.0.0.1", 0) as server:
        url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ConnectFault, match=rf"^{url}: another watch uses this session; give another") as caught:
            async with connect(parse_broker_url(url), timeout_s=0.5, identifier="me", clean=False) as connection:
                await connection.subscribe(["a"])
        assert caught.value.permanent
    await asyncio.sleep(0.05)


async def test_a_broker_that_stops_answering_is_one_sentence(broker: Mosquitto) -> None:
    async with connect(parse_broker_url(broker.url), timeout_s=0.3) as connection:
        broker.freeze()
        with pytest.raises(ConnectFault, match=rf"^{broker.url}: no answer within 0.3 s\.$"):
            await connection.publish_many([("a", said(0)), ("a", said(1))])


async def test_the_will_is_said_when_the_block_breaks_and_not_when_it_ends(broker: Mosquitto) -> None:
    address = parse_broker_url(broker.url)
    heard: list[bytes] = []

    async def listen() -> None:
        async with connect(address) as reader:
            await reader.subscribe(["will/#"])
            async for message in reader.messages():
                heard.append(message.payload)

    task = asyncio.create_task(listen())
    await asyncio.sleep(0.2)
    async with connect(address, will=Will("will/clean", said(0))):
        pass
    with suppress(ZeroDivisionError):
        async with connect(address, will=Will("will/broken", said(1))):
            raise ZeroDivisionError
    await until(lambda: bool(heard))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert heard == [said(1).json().encode()]


async def test_a_session_keeps_what_was_missed_until_it_is_accepted(broker: Mosquitto) -> None:
    address = parse_broker_url(broker.url)

    async def hear(count: int, accept: int) -> list[str]:
        async with connect(address, identifier="me", clean=False) as reader:
            await reader.subscribe(["a"])
            heard = await first(reader.messages(), count)
            for message in heard[:accept]:
                reader.accept(message)
            return [message.payload.decode() for message in heard]

    async with connect(address, identifier="me", clean=False) as reader:
        await reader.subscribe(["a"])
    async with connect(address) as writer:
        await writer.publish_many(("a", said(n)) for n in range(4))
    assert await hear(4, 2) == [said(n).json() for n in range(4)]
    assert await hear(2, 2) == [said(n).json() for n in (2, 3)]


# Permissions


async def test_a_topic_that_we_may_not_write_is_one_sentence(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite a/#\n")
    with mosquitto(tmp_path, f"acl_file {acl}") as broker:
        async with connect(parse_broker_url(broker.url)) as connection:
            await connection.publish("a/b", said(0), qos=1)
            for topic in ("c", "d"):
                with pytest.raises(
                    ConnectFault, match=rf"^{broker.url}: not authorised to publish on {topic}\.$"
                ) as no:
                    await connection.publish_many([("a/b", said(1)), (topic, said(2))])
                assert no.value.permanent
            await connection.answer("c", said(3), b"")  # whoever asked for it there has been told by the broker's rules


async def test_a_topic_that_we_may_not_read_is_one_sentence() -> None:
    async def forbid(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(bytes([0x20, 3, 0, 0, 0]))
        subscribe = await reader.read(1000) or bytes(4)
        writer.write(bytes([0x90, 4, subscribe[2], subscribe[3], 0, 135]))
        await reader.read(1000)
        writer.close()

    async with await asyncio.start_server(forbid, "127.0.0.1", 0) as server:
        url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ConnectFault, match=rf"^{url}: not authorised to read a/spots\.$") as caught:
            async with connect(parse_broker_url(url)) as connection:
                await connection.subscribe(["a/spots"])
        assert caught.value.permanent
    await asyncio.sleep(0.05)


async def test_a_wrong_password_is_one_sentence_and_the_right_one_opens(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    salt = b"0123456789ab"
    digest = hashlib.pbkdf2_hmac("sha512", SECRET.encode(), salt, 101)  # as mosquitto_passwd writes it
    passwords.write_text(f"me:$7$101${b64encode(salt).decode()}${b64encode(digest).decode()}\n")
    wanted = ("allow_anonymous false", f"password_file {passwords}")
    with mosquitto(tmp_path, *wanted) as broker:
        me = broker.url.replace("//", "//me@")
        assert await attempt(me, {"TOUCHLINE_MQTT_PASSWORD": SECRET}) == 5
        for environ in ({}, {"TOUCHLINE_MQTT_PASSWORD": "no"}):
            with pytest.raises(ConnectFault, match=rf"^{broker.url}: not authorised to connect; check user and pass"):
                await attempt(me, environ)


# TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_a_broker_is_trusted_by_its_authority(tmp_path: Path, authority: Authority) -> None:
    with mosquitto(tmp_path, tls=authority.server()) as broker:
        assert await attempt(broker.url, ca=authority.ca) == 5
        assert await attempt(broker.url.replace("localhost", "127.0.0.1"), ca=authority.ca) == 5


@pytest.mark.parametrize(
    ("server", "ca", "why"),
    [
        (Authority.server, "other", r"unable to get local issuer certificate\); --mqtt-ca can name the authority .*"),
        (Authority.server, "none", r"unable to get local issuer certificate\); --mqtt-ca can name the authority .*"),
        (lambda authority: authority.server(days=-1), "own", r"certificate has expired\)"),
        (lambda authority: authority.server(["example.org"]), "own", r"Hostname mismatch, .*\)"),
    ],
)
async def test_a_broker_that_cannot_be_trusted_is_refused(
    tmp_path: Path, authority: Authority, server: Callable[[Authority], Pair], ca: str, why: str
) -> None:
    authorities = {"own": authority.ca, "other": Authority(tmp_path, "other").ca}
    with mosquitto(tmp_path, tls=server(authority)) as broker:
        said_so = rf"^{broker.url}: its certificate cannot be trusted \({why}\.$"
        with pytest.raises(ConnectFault, match=said_so) as caught:
            await attempt(broker.url, ca=authorities.get(ca))
        assert caught.value.permanent


async def test_a_broker_that_asks_for_a_certificate_gets_ours(tmp_path: Path, authority: Authority) -> None:
    ours, stranger = authority.client("me"), Authority(tmp_path, "other").client("stranger")
    wanted = (f"cafile {authority.ca}", "require_certificate true")
    with mosquitto(tmp_path, *wanted, tls=authority.server()) as broker:
        assert await attempt(broker.url, ca=authority.ca, cert=ours.cert, key=ours.key) == 5
        with pytest.raises(
            ConnectFault, match=r": it asks for a certificate of ours; give --mqtt-cert and --mqtt-key\.$"
        ):
            await attempt(broker.url, ca=authority.ca)
        with pytest.raises(ConnectFault, match=rf": it does not accept our certificate {stranger.cert}\.$"):
            await attempt(broker.url, ca=authority.ca, cert=stranger.cert, key=stranger.key)


async def test_the_wrong_port_is_one_sentence_either_way(tmp_path: Path, authority: Authority) -> None:
    says = r": it hangs up without a word of MQTT; does it want TLS \(mqtts://\)\?$"
    with mosquitto(tmp_path, tls=authority.server()) as broker, pytest.raises(ConnectFault, match=says):
        await attempt(broker.url.replace("mqtts", "mqtt"))
    with (
        mosquitto(tmp_path) as broker,
        pytest.raises(ConnectFault, match=r": TLS failed; is this its port for mqtts\?$"),
    ):
        await attempt(broker.url.replace("mqtt", "mqtts"))


def test_each_file_for_tls_has_its_own_sentence(tmp_path: Path, authority: Authority) -> None:
    ours, locked = authority.client("me"), authority.client("me", password=b"1234")
    other, missing = authority.client("other"), tmp_path / "missing"
    damaged = tmp_path / "damaged"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for files, why in (
        ({"ca": missing}, rf"^{missing}: cannot be read \(No such file or directory\); --mqtt-ca names it\.$"),
        ({"ca": tmp_path}, r"cannot be read \(Is a directory\); --mqtt-ca"),
        ({"ca": ours.key}, rf"^{ours.key}: there is no certificate in it; --mqtt-ca takes a PEM file\.$"),
        ({"cert": missing}, r"--mqtt-cert names it\.$"),
        ({"cert": ours.cert, "key": missing}, r"--mqtt-key names it\.$"),
        ({"cert": ours.key, "key": ours.key}, r"there is no certificate in it; --mqtt-cert"),
        ({"cert": ours.cert, "key": ours.cert}, r"there is no private key in it; --mqtt-key"),
        ({"cert": ours.cert}, r"there is no private key in it; --mqtt-key"),
        ({"cert": ours.cert, "key": other.key}, rf"^{other.key}: this is not the key of {ours.cert}\.$"),
        ({"cert": locked.cert, "key": locked.key}, rf"^{locked.key}: the key is encrypted; "),
        ({"cert": damaged, "key": ours.key}, r"certificate or key is damaged"),
        ({"key": ours.key}, r"give it with --mqtt-cert\.$"),
    ):
        with pytest.raises(UsageError, match=why):
            address_of(MqttConfig("mqtts://localhost", **files), {})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="certificates are for TLS; write mqtts://"):
        address_of(MqttConfig("mqtt://localhost", ca=authority.ca), {})


# Brokers that are none


async def test_a_broker_that_is_not_there_is_one_sentence() -> None:
    port = a_closed_port()
    with pytest.raises(ConnectFault, match=rf"^mqtt://127.0.0.1:{port}: connection refused; is a broker .*\?$"):
        await attempt(f"mqtt://127.0.0.1:{port}")


async def test_a_host_that_does_not_exist_is_one_sentence() -> None:
    with pytest.raises(ConnectFault, match=r"^mqtt://no-such-host.invalid:1883: there is no such host\.$"):
        await attempt("mqtt://no-such-host.invalid")


@pytest.mark.parametrize(
    ("code", "why"), [(4, "not authorised"), (5, "not authorised"), (3, r"the broker refused \(.*\)")]
)
async def test_a_broker_of_mqtt_3_that_refuses_is_one_sentence(code: int, why: str) -> None:
    async with a_server_that(bytes([0x20, 2, 0, code])) as where:
        with pytest.raises(ConnectFault, match=rf"^mqtt://{where}: {why}"):
            await attempt(f"mqtt://me:{SECRET}@{where}")


async def test_a_server_that_never_answers_is_one_sentence() -> None:
    async with a_server_that(b"") as where:
        with pytest.raises(ConnectFault, match=rf"^mqtt://{where}: nothing that speaks MQTT answers there\.$"):
            await attempt(f"mqtt://{where}", timeout_s=0.2)


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x00", b"\x20\x02\xff\xff", b"\x00" * 50])
async def test_a_server_of_another_kind_is_one_sentence(noise: bytes) -> None:
    async with a_server_that(noise) as where:
        with pytest.raises(ConnectFault, match=rf"^mqtt://{where}: .*[.?]$"):
            await attempt(f"mqtt://{where}", timeout_s=0.3)


async def test_a_server_without_tls_is_one_sentence() -> None:
    async with a_server_that(b"HTTP/1.1 400 Bad Request\r\n\r\n") as where:
        with pytest.raises(ConnectFault, match=rf"^mqtts://{where}: TLS failed; is this its port for mqtts\?$"):
            await attempt(f"mqtts://{where}")


async def test_it_leaves_nothing_behind_however_it_ends() -> None:
    before = asyncio.all_tasks()
    async with a_server_that(b"") as where:
        task = asyncio.create_task(attempt(f"mqtt://{where}", timeout_s=0.5))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not {t for t in asyncio.all_tasks() - before if "mqtt" in t.get_name()})


# URLs, credentials


def test_ports_follow_the_scheme() -> None:
    assert (parse_broker_url("mqtt://a").port, parse_broker_url("mqtts://a").port) == (1883, 8883)
    assert parse_broker_url("mqtts://[::1]:99/").host == "::1"
    assert str(parse_broker_url("mqtts://[::1]:99")) == "mqtts://[::1]:99"


def test_user_and_password_are_percent_decoded() -> None:
    address = parse_broker_url("mqtt://a%40b:c%3Ad%2F@host")
    assert (address.user, address.password) == ("a@b", "c:d/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        f"me:{SECRET}@host",
        f"http://me:{SECRET}@host",
        "mqtt://",
        f"mqtt://me:{SECRET}",
        f"mqtt://me:{SECRET}@",
        f"mqtt://me:{SECRET}@host:x",
        f"mqtt://me:{SECRET}@host:70000",
        f"mqtt://me:{SECRET}@host:0",
        f"mqtt://me:{SECRET}@host/topic",
        f"mqtt://me:pa/{SECRET}@host",
        f"mqtt://me:pa#{SECRET}@host",
        f"mqtt://me:{SECRET}%ff@host",
        f"mqtt://host?password={SECRET}",
        f"mqtt://me:{SECRET}@a..b",
        f"mqtt://me:{SECRET}@[::1",
        f"mqtt://me:{SECRET}@ho st",
    ],
)
def test_a_url_of_another_form_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(UsageError, match="not of the form mqtt://host") as caught:
        parse_broker_url(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


def test_the_sentence_for_a_wrong_url_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["watch", f"mqtt://me:{SECRET}@host:x"]) == 2
    form = "mqtt://host[:port], or mqtts:// for TLS"
    who = "TOUCHLINE_MQTT_USER and TOUCHLINE_MQTT_PASSWORD say who we are"
    assert capsys.readouterr().err == f"touchline: The broker's URL is not of the form {form}; {who}.\n"


@pytest.mark.parametrize("where", ["URL", "TOUCHLINE_MQTT_PASSWORD", "TOUCHLINE_MQTT_PASSWORD_FILE"])
def test_a_password_is_hidden_wherever_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(logs, "_secrets", {})
    file = tmp_path / "secret"
    file.write_text("n0body kn0ws\n")
    url = "mqtt://me:n0body%20kn0ws@host" if where == "URL" else "mqtt://me@host"
    environ = {where: str(file) if where.endswith("FILE") else "n0body kn0ws"}
    address_of(MqttConfig(url), environ)
    assert logs.safe("a n0body kn0ws b n0body%20kn0ws c") == "a … b … c"


def test_credentials_come_from_the_environment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    user = {"TOUCHLINE_MQTT_USER": "me"}
    for environ in (
        user | {"TOUCHLINE_MQTT_PASSWORD": SECRET},
        user | {"TOUCHLINE_MQTT_PASSWORD_FILE": str(secret)},
        user | {"TOUCHLINE_MQTT_PASSWORD_FILE": str(secret), "TOUCHLINE_MQTT_PASSWORD": ""},
    ):
        address = address_of(MqttConfig("mqtt://host"), environ)
        assert (address.user, address.password) == ("me", SECRET)
    assert address_of(MqttConfig("mqtt://host"), user).password is None
    assert not caplog.records


def test_credentials_in_the_url_win_and_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"TOUCHLINE_MQTT_USER": "me", "TOUCHLINE_MQTT_PASSWORD": "other"}
    address = address_of(MqttConfig(f"mqtt://you:{SECRET}@host"), environ)
    assert (address.user, address.password) == ("you", SECRET)
    assert "others on this machine can read" in caplog.text
    assert SECRET not in caplog.text + repr(address)


def test_credentials_that_make_no_sense_are_usage_errors(tmp_path: Path) -> None:
    secret, binary = tmp_path / "secret", tmp_path / "binary"
    secret.write_text(SECRET)
    binary.write_bytes(b"\xff\xfe")
    name, password, file = "TOUCHLINE_MQTT_USER", "TOUCHLINE_MQTT_PASSWORD", "TOUCHLINE_MQTT_PASSWORD_FILE"
    for environ, why in (
        ({password: SECRET}, "set TOUCHLINE_MQTT_USER"),
        ({name: "me", password: SECRET, file: str(secret)}, "both set"),
        ({name: "me", file: str(tmp_path / "no")}, rf"^{tmp_path}/no: cannot be read \(No such file"),
        ({name: "me", file: str(binary)}, "no text"),
    ):
        with pytest.raises(UsageError, match=why) as caught:
            address_of(MqttConfig("mqtt://host"), environ)
        assert SECRET not in str(caught.value)


async def test_credentials_reach_no_error_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    refused = bytes([0x20, 2, 0, 5])
    async with (
        a_server_that(refused) as strict,
        a_server_that(b"") as silent,
        a_server_that(b"HTTP/1.1 400\r\n") as web,
    ):
        for scheme, where in (
            ("mqtt", strict),
            ("mqtt", silent),
            ("mqtts", web),
            ("mqtt", f"127.0.0.1:{a_closed_port()}"),
            ("mqtt", "no-such-host.invalid"),
        ):
            with pytest.raises(DeliveryError) as caught:
                await attempt(f"{scheme}://me:{SECRET}@{where}", timeout_s=0.3)
            error: BaseException | None = caught.value
            while error is not None:
                shown.append(repr(error) + str(error))
                error = error.__context__
    assert shown
    assert SECRET not in "".join(shown) + caplog.text


# Topics

NASTY = st.text(st.one_of(st.characters(), st.sampled_from("+#/\0\x1f\x7f\x9f\ufdd0\ufffe\U0001ffff$ ")), max_size=60)


@given(NASTY, NASTY, NASTY)
def test_topics_are_allowed_by_mqtt_whatever_the_names(prefix: str, stream: str, label: str) -> None:
    levels_of_label = topics("a", "b").by_label(label).split("/")
    assert len(levels_of_label) == 5
    assert all(levels_of_label)
    assert not set("+#\x00") & set("".join(levels_of_label))
    try:
        made = topics(prefix, stream)
    except UsageError:
        return
    levels = made.spots.split("/")
    assert len(levels) == prefix.strip("/").count("/") + 3
    assert all(levels)
    assert not set("+#\x00") & set(made.spots + made.status)
    assert made.spots.encode()
    assert not made.spots.startswith("$")


def test_no_two_labels_share_a_topic() -> None:
    made = topics("touchline", "main")
    assert len({made.by_label(label) for label in SOCCERNET_LABELS}) == len(SOCCERNET_LABELS) == 17
    assert made.by_label("Yellow->red card") == "touchline/main/spots/by-label/Yellow->red card"


async def test_a_broker_takes_every_topic_and_every_name(broker: Mosquitto) -> None:
    nasty = "é\U0001f600+#/\0\x1f\x7f\x9f\ufdd0\ufdef\ufffe\U0001ffff\U0010ffff$ ' \""
    made = topics(f"touchline/{nasty}", nasty)
    async with connect(parse_broker_url(broker.url)) as connection:
        await connection.subscribe([f"{made.base}/#"])
        for topic in (made.spots, made.by_label(nasty), made.status, made.command("pause")):
            await connection.publish(topic, said(0), qos=1)
        heard = await first(connection.messages(), 4)
    assert [message.topic for message in heard] == [
        made.spots,
        made.by_label(nasty),
        made.status,
        made.command("pause"),
    ]


def test_a_name_that_needs_no_change_keeps_its_letters() -> None:
    assert topics("clubs/first", "Cup final 2025").spots == "clubs/first/Cup final 2025/spots"
    assert topics("touchline", "rtsp://a/b").status == "touchline/rtsp:--a-b/status"
    assert topics("touchline", None).spots == "touchline/+/spots"
    assert topics("touchline", "final").provisional == "touchline/final/spots/provisional"


@pytest.mark.parametrize(
    ("prefix", "stream"),
    [("", "a"), ("a", " "), ("$SYS", "a"), ("a//b", "c"), ("a", "x" * 201), ("/".join(["x" * 200] * 60), "a")],
)
def test_an_impossible_topic_is_a_usage_error(prefix: str, stream: str) -> None:
    with pytest.raises(UsageError):
        topics(prefix, stream)
