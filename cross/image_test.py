"""Checks an image of `cross/image`: `image_test.py ARCHIVE PLATFORM...`, with platforms such as linux/arm/v6.

The layout is read by the rules of the OCI image specification, and once more by skopeo, which shares no code with
`cross/image`."""

import gzip
import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

ALLOWED = {"oci-layout", "index.json"}


def read(archive):
    """Name -> content. Each is a regular file with a name of the layout."""
    found = {}
    with tarfile.open(archive) as tar:
        for entry in tar:
            assert entry.isreg() and entry.name not in found, entry
            found[entry.name] = tar.extractfile(entry).read()
    return found


def check(archive, platforms):
    files = read(archive)
    used = set()

    def blob(descriptor):
        algorithm, digest = descriptor["digest"].split(":")
        name = f"blobs/{algorithm}/{digest}"
        content = files[name]
        used.add(name)
        assert algorithm == "sha256" and hashlib.sha256(content).hexdigest() == digest, name
        assert len(content) == descriptor["size"], name
        return content

    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"]["org.opencontainers.image.ref.name"]
    index = json.loads(blob(entry))
    assert entry["mediaType"] == index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    found = []
    for descriptor in index["manifests"]:
        platform = descriptor["platform"]
        found.append("/".join(filter(None, map(platform.get, ("os", "architecture", "variant")))))
        manifest = json.loads(blob(descriptor))
        assert descriptor["mediaType"] == manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
        config = json.loads(blob(manifest["config"]))
        assert {key: config[key] for key in platform} == platform
        layers = [gzip.decompress(blob(layer)) for layer in manifest["layers"]]
        digests = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        assert config["rootfs"] == {"type": "layers", "diff_ids": digests}
        check_config(config["config"])
        check_root(layers[0])
    assert sorted(found) == sorted(platforms), found
    assert files.keys() == used | ALLOWED, files.keys() - used
    print(f"{len(found)} platforms, {len(used)} blobs")


def check_config(config):
    user = config["User"].split(":")[0]
    assert user.isdigit() and int(user) > 0, "the server must not be root"
    assert list(config["Volumes"]) == [config["WorkingDir"]] == ["/data"]
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "/usr/bin/hearth"]


def check_root(layer):
    """The program is a static file for everybody, and only the volume belongs to the user."""
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        entries = {entry.name: entry for entry in tar}
        program = tar.extractfile(entries["usr/bin/hearth"]).read()
    assert program.startswith(b"\x7fELF") and b"ld-musl" not in program[:4096]
    assert entries["usr/bin/hearth"].mode == 0o755
    assert b"BEGIN CERTIFICATE" in layer
    assert [name for name, entry in entries.items() if entry.uid] == ["data"]
    assert entries["data"].mode == 0o700 and not any(entry.mode & 0o6000 for entry in entries.values())


def check_with_skopeo(archive, platforms):
    with tempfile.TemporaryDirectory() as directory:
        for platform in platforms:
            system, architecture, variant = (platform.split("/") + [""])[:3]
            of_platform = ["--override-os", system, "--override-arch", architecture, "--override-variant", variant]
            target = pathlib.Path(directory) / platform.replace("/", "-")
            copy = ["copy", "--quiet", f"oci-archive:{archive}", f"dir:{target}"]
            subprocess.run(["skopeo", "--insecure-policy", *of_platform, *copy], check=True)
            manifest = json.loads((target / "manifest.json").read_text())
            config = json.loads((target / manifest["config"]["digest"].split(":")[1]).read_text())
            assert config["architecture"] == architecture and config.get("variant", "") == variant, config
    print("skopeo reads them too")


if __name__ == "__main__":
    check(sys.argv[1], sys.argv[2:])
    check_with_skopeo(sys.argv[1], sys.argv[2:])
