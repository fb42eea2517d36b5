"""The notes' pictures: an entry of the images column becomes bytes (`source`, and `fetch` where it is a URL), then pixels
(`decode`), many of them in worker processes (`workers`); `check` sums up a dataset's.

Pictures come from strangers. Whatever the bytes or the path, the outcome is an RGB picture or an `ImageError` with one of
these reasons:

    nothing           neither bytes nor a path
    empty             no bytes in it
    url               the path is a URL, and fetching is off, or never done for a URL of this kind
    private-address   the URL leads to an address that isn't public
    fetch-failed      no such name, no connection, or another answer than a picture
    timeout           it took longer than `fetch_seconds`
    no-root           a path, and no folder was given below which files may be read
    outside-root      the path leads out of that folder
    bad-path          the path can't be a file's name
    not-found         there is no such file, or the server answers 404 or 410
    not-a-file        a folder, pipe, socket or device
    unreadable        the system refuses to read the file
    too-many-bytes    larger than `max_bytes`
    unknown-format    the content is none of JPEG, PNG, WebP, GIF, BMP, TIFF, whatever the name says
    too-many-pixels   larger than `max_pixels`
    too-small         a side is shorter than `min_side_px`
    too-narrow        beyond `max_aspect_ratio`
    unsupported       a kind of pixel without a fixed black and white, such as 32-bit floats
    corrupt           damaged or cut short
    no-memory         there is not enough memory for it
    worker-died       its worker process was killed, most often for lack of memory
"""
