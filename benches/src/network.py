import json, os, socket, struct, sys, time

at = {"ours": "203.0.113.1", "passt": "203.0.113.101", "slirp": "203.0.113.102"}
names = {"ours": "10.63.0.1", "passt": "203.0.113.153", "slirp": "10.0.2.3"}
SIZE = 96 << 20


def down(host, size):
    s = socket.create_connection((host, 5001))
    s.sendall(struct.pack("<Q", size))
    buffer = bytearray(1 << 20)
    while s.recv_into(buffer):
        pass
    s.close()


def up(host, size):
    s = socket.create_connection((host, 5002))
    buffer = bytes(1 << 20)
    for _ in range(size >> 20):
        s.sendall(buffer)
    s.shutdown(socket.SHUT_WR)
    s.recv(1)
    s.close()


def many(move, host, flows, size):
    begun = time.time()
    children = []
    for _ in range(flows):
        pid = os.fork()
        if pid == 0:
            move(host, size // flows)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    return size / 1e6 / (time.time() - begun)


def connect(host):
    begun = time.time()
    s = socket.create_connection((host, 5003))
    s.recv(1)
    taken = time.time() - begun
    s.close()
    return taken * 1e3


def ask(server, count):
    label = b"n%d" % (time.time_ns() + count)
    name = b"".join(bytes([len(part)]) + part for part in [label, b"any", b"example"]) + b"\0"
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5)
    begun = time.time()
    s.sendto(struct.pack(">HHHHHH", count & 65535, 256, 1, 0, 0, 0) + name + b"\0\1\0\1", (server, 53))
    answer = s.recv(512)
    taken = time.time() - begun
    assert answer[-4:] == bytes([203, 0, 113, 1]), answer
    s.close()
    return taken * 1e3


which = sys.argv[1]
host = at[which]
size = SIZE if which != "slirp" else SIZE // 6
connect(host)
out = {
    "down1": [many(down, host, 1, size)],
    "up1": [many(up, host, 1, size)],
    "down8": [many(down, host, 8, size)],
    "up8": [many(up, host, 8, size)],
    "connect": [connect(host) for _ in range(30)],
    "names": [ask(names[which], n) for n in range(30)],
}
print(json.dumps(out))
