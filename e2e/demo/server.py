"""A small HTTP server with something to see in each request: a query, some work in Python, some in C, a wait.

    GET /orders?customer=N   rows from SQLite, totals in Python, JSON
    GET /digest?size=N       a password hash, in C and without the GIL
    GET /slow                waits for a "backend" (50 ms)
"""
import argparse
import hashlib
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

ITEMS = ("anvil", "bolt", "crane", "drill", "engine")
local = threading.local()


def fill(path):
    chance = random.Random(1)
    with sqlite3.connect(path) as database:
        database.execute("create table orders (customer integer, item text, amount integer, price real)")
        database.executemany(
            "insert into orders values (?, ?, ?, ?)",
            ((n % 50, chance.choice(ITEMS), chance.randint(1, 9), chance.uniform(1, 100)) for n in range(20000)),
        )


def connection(path):
    if not hasattr(local, "database"):
        local.database = sqlite3.connect(path)
    return local.database


def load_orders(path, customer):
    query = "select item, amount, price from orders where customer = ? order by price"
    return connection(path).execute(query, (customer,)).fetchall()


def total_by_item(rows):
    totals = {}
    for item, amount, price in rows:
        totals[item] = totals.get(item, 0.0) + discounted(amount, price)
    return totals


def discounted(amount, price):
    return amount * price * (0.9 if amount > 5 else 1.0)


def render(totals):
    return json.dumps({item: round(value, 2) for item, value in sorted(totals.items())}).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    database = None

    def do_GET(self):
        url = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/orders":
            body = self.orders(int(query.get("customer", "1")))
        elif url.path == "/digest":
            body = self.digest(int(query.get("size", "20000")))
        elif url.path == "/slow":
            body = self.slow()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def orders(self, customer):
        return render(total_by_item(load_orders(self.database, customer)))

    def digest(self, rounds):
        return hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", min(rounds, 100000)).hex().encode()

    def slow(self):
        time.sleep(0.05)
        return b"late"

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--address-file", help="where to write HOST:PORT once the server listens")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Handler.database = "/tmp/aiprof-demo-%d.sqlite" % os.getpid()
    fill(Handler.database)
    try:
        server = Server(("127.0.0.1", options.port), Handler)
        address = "%s:%d" % server.server_address[:2]
        if options.address_file:
            with open(options.address_file, "w") as file:
                file.write(address)
        print("serving on", address, flush=True)
        server.serve_forever()
    finally:
        os.unlink(Handler.database)


if __name__ == "__main__":
    main()
