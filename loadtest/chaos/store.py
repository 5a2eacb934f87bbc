"""What lies in the bucket, by the store's own list of files: SeaweedFS's filer, below its S3 gateway."""

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

MARKER = "application/x-image-store-marker"
PAGE = 1_000


@dataclass
class File:
    name: str
    url: str
    is_folder: bool
    is_marker: bool

    def content(self) -> bytes:
        with urllib.request.urlopen(self.url) as answer:
            return answer.read()


class Store:
    def __init__(self, filer: str, bucket: str) -> None:
        self.url = f"{filer}/buckets/{bucket}"

    def images(self) -> list[File]:
        return [file for file in self.files("") if not file.is_folder]

    def incoming(self) -> list[File]:
        """What was uploaded directly and is no image; markers too."""
        return [file for file in self.files("incoming/") if not file.is_folder]

    def unfinished(self) -> list[str]:
        """The ids of multipart uploads."""
        return [file.name for file in self.files(".uploads/")]

    def files(self, folder: str) -> Iterator[File]:
        last = ""
        while page := self.page(folder, last):
            for entry in page:
                last = entry["FullPath"].rsplit("/", 1)[1]
                url = f"{self.url}/{folder}{urllib.parse.quote(last)}"
                yield File(last, url, bool(entry["Mode"] >> 31), entry.get("Mime") == MARKER)

    def page(self, folder: str, last: str) -> list[dict]:
        query = urllib.parse.urlencode({"limit": PAGE, "lastFileName": last})
        request = urllib.request.Request(f"{self.url}/{folder}?{query}", headers={"Accept": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)["Entries"] or []
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise
