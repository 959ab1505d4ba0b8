"""Reads shards with a common reader and prints the number of samples: `readers.py NAME DIR`."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path


def webdataset(folder: Path) -> int:
    """webdataset, decoding the images."""
    import webdataset as wds

    urls = sorted(map(str, folder.glob("*.tar")))
    found = wds.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg;png;jpeg;webp", "txt")
    return sum(1 for image, text in found if image.size and isinstance(text, str))


def ray_data(folder: Path) -> int:
    """Ray Data's read_webdataset."""
    import ray

    if not ray.is_initialized():
        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    # Its default decoder returns 2-D arrays for grey images and cannot mix them with colour images.
    rows = ray.data.read_webdataset(str(folder), file_extensions=["tar"], decoder=None).take_all()
    assert all(r["__key__"] and isinstance(json.loads(r["json"]), dict) for r in rows)
    return len(rows)


def open_clip_train(folder: Path) -> int:
    """open_clip's training reader, one epoch without shuffling (its reader for validation sets)."""
    import open_clip
    from open_clip_train.data import get_wds_dataset

    sizes = json.loads((folder / "sizes.json").read_text())
    last = len(sizes) - 1
    args = Namespace(
        train_data=None, val_data=f"{folder}/{{00000000..{last:08d}}}.tar", train_num_samples=None,
        val_num_samples=sum(sizes.values()), dataset_resampled=False, batch_size=1, workers=1,
        world_size=1, seed=0, train_data_upsampling_factors=None,
    )  # fmt: skip
    model = "ViT-B-32"
    transform = open_clip.image_transform((32, 32), is_train=False)
    info = get_wds_dataset(args, transform, is_train=False, tokenizer=open_clip.get_tokenizer(model))
    return sum(len(images) for images, texts in info.dataloader if images.shape[2:] == (32, 32))


if __name__ == "__main__":
    print({f.__name__: f for f in (webdataset, ray_data, open_clip_train)}[sys.argv[1]](Path(sys.argv[2])))
