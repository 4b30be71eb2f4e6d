#!/usr/bin/env python3
"""A real SMTP server (aiosmtpd) for tests, that fails in the way it is told to.

Says "ready PORT" on its output once it listens, then a line for each thing that happens. Ends when its input is closed, so that it
never outlives the test that started it.
"""

import argparse
import asyncio
import logging
import os
import ssl
import sys
import time
import warnings

from aiosmtpd.smtp import SMTP, AuthResult, Session

options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("--host", default="127.0.0.1")
options.add_argument("--port", type=int, default=0, help="0: a free one")
options.add_argument("--save", metavar="DIR", help="write each message to DIR/N.eml, its envelope to DIR/N.envelope")
options.add_argument("--cert", help="PEM: the server's certificate, and those above it")
options.add_argument("--key", help="PEM: its key")
options.add_argument("--tls", action="store_true", help="TLS from the first byte, instead of STARTTLS")
options.add_argument("--no-starttls", action="store_true", help="offer no STARTTLS although there is a certificate")
options.add_argument("--inject", action="store_true", help="slip answers in behind the last one before TLS, as somebody on the way can")
options.add_argument("--user", help="who must log in; without it anybody may send")
options.add_argument("--password")
options.add_argument("--refuse-auth", action="store_true", help="let nobody in, and repeat what they said")
options.add_argument("--auth-mechanism", help="offer only this one")
options.add_argument("--refuse-sender", action="store_true", help="550 to every MAIL")
options.add_argument("--refuse", metavar="ADDRESS", action="append", default=[], help="550 for this recipient")
options.add_argument("--refuse-with", metavar="REPLY", default="550 5.1.1 no such user here", help="... in these words")
options.add_argument("--later", metavar="N", type=int, default=0, help="451 to the first N messages")
options.add_argument("--data-reply", metavar="REPLY", help="this answer to every message")
options.add_argument("--max-size", metavar="BYTES", type=int, help="552 to a larger message")
options.add_argument("--hang", choices=["greeting", "rcpt", "data", "body", "end"], help="never answer from here on (body: read nothing)")
options.add_argument("--slow", metavar="SECONDS", type=float, default=0.0, help="wait before each answer")
options.add_argument("--hold", metavar="FILE", help="while there is such a file, save a message and do not answer")
options.add_argument("--close", choices=["greeting", "data", "end"], help="close: at once, in the message, after it without an answer")
option = options.parse_args()
# aiosmtpd warns of what a test asks for on purpose.
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")


def say(*words):
    print(*words, flush=True)


async def forever():
    await asyncio.Event().wait()


class Server(SMTP):
    async def push(self, status):
        if option.slow:
            await asyncio.sleep(option.slow)
        if option.inject and status.startswith("220 Ready to start TLS"):
            # With the real answer in one packet: an EHLO that offers all, and a yes to each step of a whole mail.
            status += "\r\n250-mail.test\r\n250 AUTH PLAIN\r\n235 in\r\n250 ok\r\n250 ok\r\n354 go on\r\n250 taken"
        await super().push(status)

    async def smtp_DATA(self, arg):
        if option.hang == "data":
            await forever()
        if option.hang == "body":
            self.transport.pause_reading()
            self.transport.write(b"354 go on\r\n")
            say("data")
            await forever()
        if option.close == "data":
            self.transport.write(b"354 go on\r\n")
            await self._reader.readline()
            say("closing")
            self.transport.abort()
            return
        await super().smtp_DATA(arg)


class Handler:
    messages = 0

    async def handle_MAIL(self, server, session, envelope, address, mail_options):
        say("mail", address)
        if option.refuse_sender:
            return "550 5.7.1 not your address"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        say("rcpt", address)
        if option.hang == "rcpt":
            await forever()
        if address in option.refuse:
            return option.refuse_with
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        Handler.messages += 1
        say("message", Handler.messages, len(envelope.content))
        if option.hang == "end":
            await forever()
        if Handler.messages <= option.later:
            return "451 4.3.0 try again later"
        if option.data_reply:
            return option.data_reply
        if option.max_size and len(envelope.content) > option.max_size:
            return "552 5.3.4 message too big"
        if option.save:
            path = os.path.join(option.save, str(Handler.messages))
            with open(path + ".envelope", "w") as file:
                print(envelope.mail_from, *envelope.rcpt_tos, sep="\n", file=file)
            with open(path + ".new", "wb") as file:
                file.write(envelope.original_content)
            os.rename(path + ".new", path + ".eml")
            say("taken", Handler.messages, time.time())
        while option.hold and os.path.exists(option.hold):
            await asyncio.sleep(0.01)
        if option.close == "end":
            server.transport.abort()
        return "250 2.0.0 taken"


def authenticator(server, session: Session, envelope, mechanism, data):
    user, password = data.login.decode(), data.password.decode()
    say("auth", mechanism, user)
    if option.refuse_auth:
        return AuthResult(success=False, handled=False, message=f"535 5.7.8 {user} with {password} is not let in")
    return AuthResult(success=(user, password) == (option.user, option.password), handled=False)


def context():
    if not option.cert:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(option.cert, option.key)
    return made


class Mute(asyncio.Protocol):
    """Takes a connection, and that is all."""

    def connection_made(self, transport):
        say("connection")
        if option.close == "greeting":
            transport.abort()


async def main():
    loop = asyncio.get_running_loop()
    tls = context()
    mechanisms = {"LOGIN", "PLAIN"}
    offered = {option.auth_mechanism} if option.auth_mechanism else mechanisms if option.user else set()
    starttls = tls if not (option.tls or option.no_starttls) else None

    def protocol():
        if option.hang == "greeting" or option.close == "greeting":
            return Mute()
        return Server(
            Handler(),
            hostname="mail.test",
            loop=loop,
            tls_context=starttls,
            require_starttls=starttls is not None,
            authenticator=authenticator if option.user else None,
            auth_required=option.user is not None,
            auth_require_tls=starttls is not None,
            auth_exclude_mechanism=mechanisms - offered,
            data_size_limit=200_000_000,
        )

    server = await loop.create_server(protocol, option.host, option.port, ssl=tls if option.tls else None)
    say("ready", server.sockets[0].getsockname()[1])
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)


asyncio.run(main())
