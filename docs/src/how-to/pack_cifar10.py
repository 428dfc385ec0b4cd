"""Packs a file of CIFAR-10 (binary version) into a WebDataset tar: pack_cifar10.py SOURCE.bin TARGET.tar"""

import io, struct, sys, tarfile, zlib

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def png(planes):
    """A PNG of three planes of 32 x 32 bytes."""
    lines = (bytes(planes[c * 1024 + y * 32 + x] for x in range(32) for c in range(3)) for y in range(32))
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    size = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


source, target = sys.argv[1:]
records = open(source, "rb").read()
with tarfile.open(target, "w") as tar:
    for i in range(len(records) // 3073):
        record = records[i * 3073:(i + 1) * 3073]
        name = CLASSES[record[0]]
        caption = f"a photo of {'an' if name[0] == 'a' else 'a'} {name}"
        for ending, data in (("png", png(record[1:])), ("txt", caption.encode())):
            member = tarfile.TarInfo(f"{i:06}-{name}.{ending}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
