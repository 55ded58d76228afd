"""What goes over a wire between two pods, and whether all of it is TLS.

As a program: `wiretap.py INTERFACE FILE` writes every frame of an interface of its own network namespace, until SIGTERM.
"""

import os
import signal
import socket
import struct
import sys

ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
TCP, ICMP, ICMPV6 = 6, 1, 58
# RFC 8446 §5.1: change_cipher_spec, alert, handshake, application_data.
RECORD_TYPES = {20, 21, 22, 23}
HANDSHAKE = 22
RECORD_BYTES_MAX = (1 << 14) + 256


def record(interface, path):
    """Frames as length and bytes; the last four bytes say how many the kernel dropped."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    tap.bind((interface, ETH_P_ALL))
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    tap.settimeout(0.1)
    with open(path, "wb", buffering=1 << 20) as file:
        print("ready", flush=True)
        while True:
            try:
                # Offloads make frames larger than the wire's.
                frame = tap.recv(1 << 17)
                file.write(struct.pack("!I", len(frame)) + frame)
            except TimeoutError:
                if ended:
                    break
        _, dropped = struct.unpack("II", tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        file.write(struct.pack("!I", 0) + struct.pack("!I", dropped))


class Stream:
    """One direction of one TCP connection."""

    def __init__(self):
        self.start = None
        self.pieces = {}

    def add(self, sequence, syn, payload):
        if syn:
            self.start = (sequence + 1) & 0xFFFFFFFF
        elif payload and len(self.pieces.get(sequence, b"")) < len(payload):
            self.pieces[sequence] = payload

    def content(self):
        """The bytes from the start to the first hole."""
        if self.start is None:
            return b"".join(self.pieces.values())
        ordered = sorted(((sequence - self.start) & 0xFFFFFFFF, piece) for sequence, piece in self.pieces.items())
        out = bytearray()
        for offset, piece in ordered:
            if offset > len(out):
                break
            out += piece[len(out) - offset:]
        return bytes(out)


class Capture:
    """All that was recorded."""

    def __init__(self, path):
        self.streams = {}
        self.others = {}
        self.frames = 0
        with open(path, "rb") as file:
            while length := struct.unpack("!I", file.read(4))[0]:
                self.frames += 1
                self._frame(file.read(length))
            self.dropped = struct.unpack("!I", file.read(4))[0]

    def _frame(self, frame):
        kind = struct.unpack("!H", frame[12:14])[0]
        packet = frame[14:]
        if kind == IPV4:
            header, protocol = (packet[0] & 15) * 4, packet[9]
            total = struct.unpack("!H", packet[2:4])[0]
            family, ends = socket.AF_INET, (packet[12:16], packet[16:20])
        elif kind == IPV6:
            header, protocol = 40, packet[6]
            total = 40 + struct.unpack("!H", packet[4:6])[0]
            family, ends = socket.AF_INET6, (packet[8:24], packet[24:40])
        else:
            return self._other(f"ethertype {kind:#06x}", kind == ARP)
        if protocol != TCP:
            return self._other(f"IP protocol {protocol}", protocol in (ICMP, ICMPV6))
        segment = packet[header:total]
        ports = struct.unpack("!HH", segment[:4])
        source, target = (socket.inet_ntop(family, end) for end in ends)
        key = (source, ports[0], target, ports[1])
        sequence, flags = struct.unpack("!I", segment[4:8])[0], segment[13]
        self.streams.setdefault(key, Stream()).add(sequence, bool(flags & 2), segment[(segment[12] >> 4) * 4:])

    def _other(self, what, is_network_itself):
        """ARP and ICMP are the network's own."""
        if not is_network_itself:
            self.others[what] = self.others.get(what, 0) + 1

    def contents(self):
        for key, stream in self.streams.items():
            content = stream.content()
            if content:
                yield key, content

    def ports(self):
        """To which ports of which addresses something was sent by whoever connected."""
        return {key[2:] for key, stream in self.streams.items() if stream.pieces}

    def plaintext(self):
        """What is not TLS: empty, or a sentence for each stream and each foreign packet."""
        faults = [f"{count} packets of {what}" for what, count in self.others.items()]
        for (source, source_port, target, target_port), content in self.contents():
            fault = not_tls(content)
            if fault:
                faults.append(f"{source}:{source_port} > {target}:{target_port}: {fault}")
        return faults

    def holds(self, secret):
        return any(secret in content for _, content in self.contents())


def not_tls(content):
    """Why these bytes are no sequence of TLS records, the last of which may be cut off; `None` when they are."""
    at, first = 0, True
    while at < len(content):
        head = content[at:at + 5]
        if len(head) < 5:
            return None
        kind, version, length = head[0], struct.unpack("!H", head[1:3])[0], struct.unpack("!H", head[3:5])[0]
        # RFC 8446 §5.1: legacy_record_version is 0x0303, of the first ClientHello perhaps 0x0301.
        wrong = kind not in RECORD_TYPES or version not in (0x0301, 0x0303) or not 0 < length <= RECORD_BYTES_MAX
        # An alert may come first: a refused ClientHello.
        if wrong or (first and kind not in (HANDSHAKE, 21)):
            return f"no TLS record at byte {at}: {content[at:at + 40]!r}"
        at, first = at + 5 + length, False
    return None


class Wiretap:
    """A running recording; `stop` gives what it holds."""

    def __init__(self, mesh, namespace, interface, name="wire"):
        self.path = mesh.directory / f"{name}.frames"
        command = [os.sys.executable, __file__, interface, self.path]
        self.process = namespace.spawn(name, *command)
        from harness.processes import wait_until

        wait_until(lambda: "ready" in self.process.text(), "the wiretap")

    def stop(self):
        self.process.terminate(10)
        return Capture(self.path)


if __name__ == "__main__":
    record(sys.argv[1], sys.argv[2])
