"""A client of an esper in a network of its own: curl of this machine, in the network of one of its processes."""

import json
import subprocess

from support import expect


class Client:
    def __init__(self, process, port=3000):
        self.curl = ["nsenter", "-t", str(process), "-n", "curl", "-sS", "--noproxy", "*"]
        self.url = f"http://127.0.0.1:{port}"

    def request(self, path, *options):
        command = [*self.curl, "--max-time", "5", *options, self.url + path]
        return subprocess.run(command, capture_output=True, text=True)

    def is_up(self):
        return self.request("/healthz", "-f").stdout == "ok\n"

    def publish(self, text):
        """Publishes an event, and returns its id."""
        done = self.request("/publish/abcdef123", "-f", "-d", f"data: {text}")
        expect(done.returncode == 0, f"a publish fails: {done.stderr}")
        return json.loads(done.stdout)["id"]

    def replay(self, last, seconds="2"):
        """Returns what a stream has that resumes after an id."""
        done = self.request("/subscribe/abcdef123", "-N", "--max-time", seconds, "-H", f"Last-Event-ID: {last}")
        return done.stdout

    def publish_and_subscribe(self):
        stream = subprocess.Popen(
            [*self.curl, "-N", "--max-time", "20", f"{self.url}/subscribe/abcdef123"], stdout=subprocess.PIPE, text=True
        )
        try:
            # The first line comes with the head: from then on it receives what is published.
            expect(stream.stdout.readline().startswith("retry:"), "a stream begins with a time to come back after")
            self.publish("hello")
            received = ""
            while "data: hello\n" not in received and "data:hello\n" not in received:
                line = stream.stdout.readline()
                expect(line, f"the stream ended: {received}")
                received += line
        finally:
            stream.kill()
            stream.wait()
