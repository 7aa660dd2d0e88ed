# SPDX-License-Identifier: Apache-2.0
"""Average precision and panoptic quality on a small data set, and what is wrong with data sets."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
from coco_sets import CATEGORY_IDS, GRASS, SIZE, SKY, write_coco_set
from freqfusion_runtime.errors import NetworkOutputError, PictureError
from freqfusion_runtime.evaluation.account import Dropped
from freqfusion_runtime.evaluation.annotation_file import read_annotation_file
from freqfusion_runtime.evaluation.coco_ap import account_of, average_precision, checked_instances, results_of
from freqfusion_runtime.evaluation.coco_panoptic import panoptic_result, read_panoptic_annotations
from freqfusion_runtime.evaluation.errors import DatasetError
from freqfusion_runtime.evaluation.panoptic_results import PanopticResultsFolder
from freqfusion_runtime.evaluation.published import PUBLISHED
from freqfusion_runtime.pictures.reading import read_picture
from freqfusion_runtime.results.coco_format import panoptic_ids
from freqfusion_runtime.results.detections import InstanceSegmentation, PanopticSegmentation
from freqfusion_runtime.results.panoptic_fusion import Segment
from freqfusion_runtime.results.region_mask import RegionMask
from freqfusion_runtime.results.run_lengths import read_code
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from small_detectors import STUFF, THINGS

NAMES = {identity: name for name, identity in CATEGORY_IDS.items()}


@pytest.fixture
def coco_set(tmp_path):
    return write_coco_set(tmp_path / "coco")


def imperfect(coco_set, seed=0):
    """A model that finds most objects a little displaced, some twice, some under another name."""
    random = np.random.default_rng(seed)
    content = json.loads(coco_set.instances.read_text())
    ids = {entry["file_name"]: entry["id"] for entry in content["images"]}
    names = {entry["id"]: entry["name"] for entry in content["categories"]}

    def predict(path):
        boxes, labels, masks = [], [], []
        for entry in content["annotations"]:
            if entry["image_id"] != ids[path.name] or random.random() < 0.15:
                continue
            for _ in range(1 + int(random.random() < 0.3)):
                dy, dx = random.integers(-6, 7, 2)
                x, y, width, height = entry["bbox"]
                boxes.append([x + dx, y + dy, x + width + dx, y + height + dy])
                right = THINGS.index(names[entry["category_id"]])
                labels.append(int(random.integers(0, 3)) if random.random() < 0.2 else right)
                mask = np.roll(read_code(entry["segmentation"]), (dy, dx), (0, 1))
                masks.append(RegionMask(0, 0, mask, SIZE))
        scores = np.sort(random.random(len(boxes)).astype(np.float32))[::-1]
        photo = np.asarray(Image.open(path))
        box_array, label_array = np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)
        return InstanceSegmentation(box_array, scores, label_array, THINGS, ((0, 0, 0),) * 3, photo, {}, tuple(masks))

    return predict


@pytest.mark.parametrize(("kind", "iou_type"), [("box", "bbox"), ("mask", "segm")])
def test_average_precision_is_that_of_the_coco_api(coco_set, kind, iou_type):
    annotations = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=True)
    results = results_of(imperfect(coco_set), annotations)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(coco_set.instances))
        entries = [{k: v for k, v in e.items() if k != ("bbox" if kind == "mask" else "segmentation")} for e in results]
        official = COCOeval(truth, truth.loadRes(entries), iou_type)
        official.evaluate()
        official.accumulate()
        official.summarize()
    ours = average_precision(results, annotations, kind)
    expected = [None if value < 0 else pytest.approx(value, abs=1e-12) for value in official.stats[:9]]
    assert list(ours.values.values()) == expected
    assert list(ours.values) == ["AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR 1", "AR 10", "AR 100"]
    assert 0.2 < ours.values["AP"] < 0.9
    precision = official.eval["precision"][:, :, :, 0, -1]
    for index, name in enumerate(THINGS):
        of_class = precision[:, :, index]
        assert ours.per_class[name] == pytest.approx(of_class[of_class > -1].mean(), abs=1e-12)


def test_the_truth_itself_scores_one_and_nothing_scores_zero(coco_set):
    annotations = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=True)
    perfect = [{**entry, "score": 0.9} for entry in annotations.annotations]
    for kind in ("box", "mask"):
        assert average_precision(perfect, annotations, kind).values["AP"] == pytest.approx(1)
        assert average_precision([], annotations, kind).values["AP"] == 0


def test_only_the_first_pictures_are_counted(coco_set):
    first = read_annotation_file(coco_set.instances, coco_set.pictures, limit=2)
    assert [image.id for image in first.images] == [100, 107]
    assert {entry["image_id"] for entry in first.annotations} == {100, 107}


def panoptic_predictor(coco_set, damage=lambda ids: ids):
    """A model that answers with the truth, altered by a function of its map."""
    content = json.loads(coco_set.panoptic.read_text())
    entries = {entry["file_name"]: entry for entry in content["annotations"]}

    def predict(path):
        truth = panoptic_ids(np.asarray(Image.open(coco_set.maps / path.name)))
        ids = np.full(SIZE, 5, np.int32)
        segments = []
        for number, record in enumerate(entries[path.name]["segments_info"], 1):
            name = NAMES[record["category_id"]]
            label = (THINGS + STUFF).index(name)
            identity = label + (1000 * number if name in THINGS else 0)
            ids[truth == record["id"]] = identity
            segments.append(Segment(identity, label, name in THINGS, record["area"]))
        ids = damage(ids)
        there = set(np.unique(ids).tolist())
        kept = tuple(segment for segment in segments if segment.id in there)
        photo = np.asarray(Image.open(path))
        nothing = InstanceSegmentation(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), THINGS, (), photo, {}
        )
        return PanopticSegmentation(ids, kept, nothing, THINGS + STUFF, ((0, 0, 0),) * 5, photo, {})

    return predict


def test_maps_of_pictures_with_one_name_are_both_kept(coco_set, tmp_path):
    annotations = read_panoptic_annotations(coco_set.panoptic, coco_set.pictures)
    first, second = (image.path for image in annotations.file.images[:2])
    predict, folder = panoptic_predictor(coco_set), PanopticResultsFolder(tmp_path, "m")
    found = [predict(first), predict(second)]
    folder.add("day/street.jpg", found[0], 1, range(5))
    folder.add("night/street.jpg", found[1], 2, range(5))
    folder.finish()
    entries = json.loads(folder.json.read_text())["annotations"]
    assert [(e["image_id"], e["file_name"]) for e in entries] == [(1, "street.png"), (2, "street.2.png")]
    for entry, answer in zip(entries, found, strict=True):
        with Image.open(folder.maps / entry["file_name"]) as image:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(answer.coco_image()))
        assert (folder.overlays / entry["file_name"]).is_file()


def test_a_picture_called_like_anothers_numbered_map_replaces_nothing(coco_set, tmp_path):
    annotations = read_panoptic_annotations(coco_set.panoptic, coco_set.pictures)
    found = panoptic_predictor(coco_set)(annotations.file.images[0].path)
    folder = PanopticResultsFolder(tmp_path, "m")
    for number, name in enumerate(("street.4.jpg", "Street.jpg", "street.2.jpg", "street.jpg", "street.4.png"), 1):
        folder.add(name, found, number, range(5))
    folder.finish()
    names = [entry["file_name"] for entry in json.loads(folder.json.read_text())["annotations"]]
    assert names == ["street.4.png", "Street.png", "street.2.png", "street.4.2.png", "street.4.5.png"]
    assert len(list(folder.maps.iterdir())) == 5


def test_a_perfect_panoptic_answer_scores_one(coco_set):
    annotations = read_panoptic_annotations(coco_set.panoptic, coco_set.pictures)
    result = panoptic_result(panoptic_predictor(coco_set), annotations)
    assert result.all.pq == result.things.pq == result.stuff.pq == 1
    assert (result.things.categories, result.stuff.categories) == (3, 2)


def test_stuff_that_is_left_out_costs_what_the_definition_says(coco_set):
    annotations = read_panoptic_annotations(coco_set.panoptic, coco_set.pictures)
    without_sky = panoptic_predictor(coco_set, lambda ids: np.where(ids == 3, 5, ids))
    result = panoptic_result(without_sky, annotations)
    assert result.per_class["sky"].pq == 0
    assert result.stuff.pq == 0.5
    assert result.all.pq == pytest.approx(4 / 5)


def first(content):
    return content["annotations"][0]


def break_rle(content):
    content["annotations"][1]["segmentation"]["counts"] += "1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].update(id=None), "a picture must have an id, a number or a text, got None"),
        (lambda c: c["categories"][0].update(id=[1]), r"a category must have an id, a number or a text, got \[1\]"),
        (lambda c: c["images"][0].update(width=200.5), "picture 100 must have width of type int, got 200.5"),
        (lambda c: c["images"][0].update(id=107), "the picture id 107 is there twice"),
        (lambda c: c["images"][0].pop("height"), "picture 100 must have height of type int, got None"),
        (lambda c: c.pop("categories"), "this one lacks categories"),
        (lambda c: c.update(images=[]), "lists no pictures"),
        (lambda c: c.update(categories=[]), "lists no categories"),
        (lambda c: c.update(annotations=[3]), "annotations must hold objects only"),
    ],
)
def test_broken_annotations_are_named_before_anything_runs(coco_set, change, message):
    coco_set.edit(coco_set.instances, change)
    with pytest.raises(DatasetError, match=message):
        checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=True)


@pytest.mark.parametrize(
    ("change", "what", "reason"),
    [
        (
            lambda c: first(c).update(category_id=99),
            "object",
            r"it has the category 99, which the file does not list \(3",
        ),
        (lambda c: first(c).update(category_id=[3]), "object", r"it has the category \[3\], which"),
        (lambda c: first(c).update(bbox=[1, 2, -3, 4]), "box", "bbox must be x, y, width, height, got"),
        (lambda c: first(c).update(bbox=None), "box", "bbox must be x, y, width, height, got None"),
        (lambda c: first(c).update(bbox=None, segmentation=7), "object", "bbox must be x, y, width, height, got None"),
        (lambda c: first(c).update(iscrowd="maybe"), "object", "iscrowd must be 0 or 1, got 'maybe'"),
        (lambda c: first(c).update(image_id=5), "object", "it belongs to picture 5, which the file does not list"),
        (lambda c: first(c).pop("image_id"), "object", "it belongs to picture None, which the file does not list"),
        (
            lambda c: first(c)["segmentation"].update(counts=[5]),
            "mask",
            "the run-length code is broken: its runs cover 5 pixels of 160 x 200 = 32000",
        ),
        (lambda c: first(c)["segmentation"].update(counts="!!"), "mask", "broken: it holds the character '!'"),
        (
            lambda c: first(c).update(segmentation={"size": [200, 160], "counts": [32000]}),
            "mask",
            "the run-length code is for 200 x 160, the picture has 160 x 200",
        ),
        (lambda c: first(c).update(segmentation=[[1, 2, 3, 4]]), "mask", "a polygon has fewer than 3 corners"),
        (lambda c: first(c).update(segmentation=[[1, 2, 3, 4, 5, "6"]]), "mask", "must be a list of x and y in turn"),
        (lambda c: first(c).update(segmentation=[1, 2, 30, 4, 5, 60]), "mask", "must be polygons or a run-length code"),
        (lambda c: first(c).update(segmentation=[]), "mask", r"must be polygons or a run-length code, got \[\]"),
        (lambda c: first(c).update(segmentation=7), "mask", "must be polygons or a run-length code, got 7"),
    ],
)
def test_a_broken_object_is_dropped_and_named_and_stops_no_other(coco_set, change, what, reason):
    whole = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=True)
    coco_set.edit(coco_set.instances, change)
    checked = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=True)
    (dropped,) = checked.dropped
    assert (dropped.what, dropped.name) == (what, "annotation 1")
    assert re.search(reason, dropped.reason)
    total = len(whole.annotations)
    # An object whose mask is broken has its box still, and the other way round.
    assert account_of(checked, "box") == (total - (what in ("object", "box")), 0)
    assert account_of(checked, "mask") == (total - (what in ("object", "mask")), 0)
    perfect = [{**entry, "score": 0.9} for entry in checked.annotations]
    for kind, key in (("box", "bbox"), ("mask", "segmentation")):
        found = [entry for entry in perfect if key in entry]
        assert average_precision(found, checked, kind).values["AP"] == pytest.approx(1)


def test_a_bad_ring_is_dropped_from_its_polygon(coco_set):
    good = [10.5, 10, 60, 10, 60, 50, 10, 50]
    coco_set.edit(coco_set.instances, lambda c: first(c).update(segmentation=[good, [1, 2, 3, 4], good[:7]]))
    checked = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=True)
    assert checked.annotations[0]["segmentation"] == [good]
    assert [(entry.what, entry.name) for entry in checked.dropped] == [("ring", "annotation 1")] * 2


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize(
    "renamed",
    [
        lambda identity: 2**60 + identity,  # doubles hold the first 53 bits
        lambda identity: f"{identity:012}",
        lambda identity: identity + 0.5,
    ],
)
def test_pictures_and_categories_may_have_any_ids(coco_set, kind, renamed):
    before = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=True)
    expected = average_precision(results_of(imperfect(coco_set), before), before, kind)

    def rename(content):
        for entry in content["images"]:
            entry.update(id=renamed(entry["id"]), height=float(entry["height"]))
        for entry in content["categories"]:
            entry["id"] = renamed(entry["id"])
        for entry in content["annotations"]:
            entry.update(image_id=renamed(entry["image_id"]), category_id=renamed(entry["category_id"]))

    coco_set.edit(coco_set.instances, rename)
    after = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=True)
    results = results_of(imperfect(coco_set), after)
    assert {entry["image_id"] for entry in results} <= {renamed(100 + 7 * i) for i in range(4)}
    assert average_precision(results, after, kind) == expected


@pytest.mark.parametrize("area", [None, "1200", float("nan"), -1, True, "missing"])
def test_an_area_that_is_no_number_is_counted_in_the_mask(coco_set, area):
    before = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=True)

    def spoil(content):
        for entry in content["annotations"]:
            entry.update(area=area)
            if area == "missing":
                del entry["area"]

    coco_set.edit(coco_set.instances, spoil)
    for masks in (False, True):
        after = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=masks)
        assert [entry["area"] for entry in after.annotations] == [entry["area"] for entry in before.annotations]
        count = len(after.annotations)
        assert f"{count} objects have no area of their own" in after.warnings[0]
        assert f"that of the mask was taken for {count}" in after.warnings[0]
    results = results_of(imperfect(coco_set), before)
    assert average_precision(results, after, "box").values == average_precision(results, before, "box").values


def test_an_area_of_polygons_is_their_pixels_and_without_a_mask_the_boxs(coco_set):
    def change(content):
        one, other = content["annotations"][:2]
        one.update(segmentation=[[10, 10, 20, 10, 20, 20, 10, 20], [15, 10, 25, 10, 25, 20, 15, 20]], area=None)
        other.update(segmentation=None, bbox=[1, 2, 3, 4], area=None)

    coco_set.edit(coco_set.instances, change)
    checked = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=False)
    # Two squares of 10 x 10 that share half count once where they overlap.
    assert [entry["area"] for entry in checked.annotations[:2]] == [150, 12]


@pytest.mark.parametrize(("flag", "crowds"), [("0", 0), (0.0, 0), (False, 0), (None, 0), ("1", 1), (True, 1)])
def test_iscrowd_is_read_as_it_is_meant(coco_set, flag, crowds):
    coco_set.edit(coco_set.instances, lambda c: first(c).update(iscrowd=flag))
    checked = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=True)
    assert account_of(checked, "mask")[1] == crowds
    assert checked.dropped == ()


def test_a_picture_that_cannot_be_read_is_dropped_with_its_objects(coco_set):
    whole = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=True)
    expected = whole.without({107})
    (coco_set.pictures / "000001.png").write_bytes(b"no picture")
    told = []

    def predict(path):
        read_picture(path)
        return known(path)

    def known(path):
        return imperfect(coco_set)(path)

    results = results_of(predict, whole, drop=lambda image, reason: told.append((image.id, reason)))
    ((identity, reason),) = told
    assert identity == 107
    assert "000001.png" in reason
    kept = whole.without({identity})
    assert [image.id for image in kept.images] == [100, 114, 121]
    right = average_precision(results_of(known, expected), expected, "mask").values
    assert average_precision(results, kept, "mask").values == right
    with pytest.raises(PictureError):
        results_of(predict, whole)


def test_a_picture_to_which_the_model_has_no_answer_stops_no_other(coco_set):
    whole = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=True)

    def predict(path):
        if path.name == "000001.png":
            raise NetworkOutputError("scores holds values that are infinite or not a number")
        return imperfect(coco_set)(path)

    told = []
    results = results_of(predict, whole, drop=lambda image, reason: told.append((image.id, reason)))
    assert told == [(107, "scores holds values that are infinite or not a number")]
    assert {entry["image_id"] for entry in results} == {100, 114, 121}


def test_masks_do_not_matter_for_boxes(coco_set):
    coco_set.edit(coco_set.instances, break_rle)
    whole = read_annotation_file(coco_set.instances, coco_set.pictures)
    checked = checked_instances(whole, masks=False)
    assert [entry["bbox"] for entry in checked.annotations] == [entry["bbox"] for entry in whole.annotations]


def test_missing_files_are_named(coco_set, tmp_path):
    (tmp_path / "text.json").write_text("{")
    for path, pictures, message in [
        (tmp_path / "gone.json", coco_set.pictures, "cannot be read: no such file"),
        (tmp_path / "text.json", coco_set.pictures, "text.json cannot be read: Expecting property name"),
        (coco_set.instances, tmp_path / "gone", "gone is no folder"),
    ]:
        with pytest.raises(DatasetError, match=message):
            read_annotation_file(path, pictures)
    (coco_set.pictures / "000001.png").unlink()
    with pytest.raises(DatasetError, match=r"lacks 1 of the 4 pictures that .* lists: 000001\.png"):
        read_annotation_file(coco_set.instances, coco_set.pictures)
    assert len(read_annotation_file(coco_set.instances, coco_set.pictures, limit=1).images) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"][0].update(name="x" * 201), "at most 200 characters, that of 3 has 201: 'x{40}'"),
        (lambda c: c.update(categories=c["categories"] * 30_000), "lists 90000 categories, at most 65536"),
        (
            lambda c: c["images"][0].update(height=1 << 20, width=1 << 20),
            "must have from 1 to 1073741824 pixels",
        ),
        (lambda c: c["images"][0].update(height=0), "must have from 1 to 1073741824 pixels, got 200 x 0"),
        (lambda c: c["images"][0].update(file_name="x" * 5000), r"lacks 1 of the 4 pictures that .* lists: x{100}\."),
        (lambda c: c["images"][0].update(file_name="a\0b"), "lacks 1 of the 4 pictures"),
    ],
)
def test_what_is_beyond_its_bounds_is_named(coco_set, change, message):
    coco_set.edit(coco_set.instances, change)
    with pytest.raises(DatasetError, match=message):
        read_annotation_file(coco_set.instances, coco_set.pictures)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "instances_val2017.json is nested too deeply: 100000 lists"),
        ('{"images": [], "images": []}', "has the field 'images', which is there twice"),
        ('{"images": ' + "1" * 5000 + "}", "has a number of more than 64 digits"),
    ],
)
def test_hostile_annotations_end_in_a_sentence(coco_set, text, message):
    coco_set.instances.write_text(text)
    with pytest.raises(DatasetError, match=message + r".*\. Name an annotation file, or get a whole copy of it\."):
        read_annotation_file(coco_set.instances, coco_set.pictures)


@pytest.mark.parametrize(
    "ring", [[0, 0, 1e9, 0, 1e9, 1e9], [1e300, 0, 0, 1, 2, 3], [0, 0, 9e5, 0] * 3, [1e308, 1e308, -1e308, 0, 0, 0]]
)
def test_an_outline_without_end_is_dropped_before_native_code_makes_room_for_it(coco_set, ring):
    coco_set.edit(coco_set.instances, lambda c: c["annotations"][0].update(segmentation=[ring]))
    checked = checked_instances(read_annotation_file(coco_set.instances, coco_set.pictures), masks=True)
    assert "outline is" in checked.dropped[0].reason
    assert "segmentation" not in checked.annotations[0]


def test_an_empty_folder_of_pictures_is_named(coco_set, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty lacks 4 of the 4 pictures"):
        read_annotation_file(coco_set.instances, tmp_path / "empty")


def test_categories_the_model_does_not_know_are_named(coco_set):
    annotations = read_annotation_file(coco_set.instances, coco_set.pictures)
    with pytest.raises(DatasetError, match=r"1 of 3 categories are unknown to the model: dragon\. It knows cat, dog"):
        annotations.category_ids(("cat", "dog", "bird"))
    assert annotations.category_ids(("dragon", "bird", "cat", "dog")) == (8, None, 3, 7)
    assert annotations.name_warnings(("dragon", "bird", "cat", "dog")) == []
    assert annotations.category_ids(("class 0", "class 1", "class 2")) == (3, 7, 8)
    (warning,) = annotations.name_warnings(("class 0", "class 1", "class 2"))
    assert "matched with the 3 categories by their order in the file, from cat, dog, dragon" in warning


def test_blanks_around_names_do_not_matter_and_are_told(coco_set):
    coco_set.edit(coco_set.instances, lambda c: c["categories"][1].update(name=" dog "))
    annotations = read_annotation_file(coco_set.instances, coco_set.pictures)
    assert annotations.category_ids(("cat", "dog", "dragon ")) == (3, 7, 8)
    (warning,) = annotations.name_warnings(("cat", "dog", "dragon "))
    assert "without the blanks around them: ' dog ' with 'dog', 'dragon' with 'dragon '" in warning


def test_categories_of_one_name_are_refused_with_their_ids(coco_set):
    coco_set.edit(coco_set.instances, lambda c: c["categories"][2].update(name="cat"))
    annotations = read_annotation_file(coco_set.instances, coco_set.pictures)
    with pytest.raises(DatasetError, match="the categories 3, 8 are all called 'cat'"):
        annotations.category_ids(("cat", "dog", "dragon"))
    assert annotations.category_ids(("class 0", "class 1", "class 2")) == (3, 7, 8)  # order needs no names


def test_a_picture_of_another_size_is_named(coco_set):
    Image.new("RGB", (30, 20)).save(coco_set.pictures / "000000.png")
    annotations = read_annotation_file(coco_set.instances, coco_set.pictures)
    with pytest.raises(DatasetError, match=r"000000\.png is 30 x 20 pixels, instances_val2017\.json says 200 x 160"):
        results_of(imperfect(coco_set), annotations)


def test_flags_that_are_texts_are_read_as_they_are_meant(coco_set):
    def as_texts(content):
        for record in content["categories"]:
            record["isthing"] = str(record["isthing"])
        for entry in content["annotations"]:
            for segment in entry["segments_info"]:
                segment["iscrowd"] = "0"

    coco_set.edit(coco_set.panoptic, as_texts)
    annotations = read_panoptic_annotations(coco_set.panoptic, coco_set.pictures)
    result = panoptic_result(panoptic_predictor(coco_set), annotations)
    assert result.all.pq == result.things.pq == result.stuff.pq == 1
    assert (result.things.categories, result.stuff.categories) == (3, 2)


def test_pixels_and_segments_that_count_are_counted(coco_set):
    def one_crowd(content):
        first(content)["segments_info"][0]["iscrowd"] = 1

    coco_set.edit(coco_set.panoptic, one_crowd)
    annotations = read_panoptic_annotations(coco_set.panoptic, coco_set.pictures)
    total = sum(len(entry["segments_info"]) for entry in annotations.entries.values())
    truth = np.asarray(Image.open(coco_set.maps / "000003.png")).copy()
    truth[:10, :10] = 0
    Image.fromarray(truth).save(coco_set.maps / "000003.png")
    result = panoptic_result(panoptic_predictor(coco_set), annotations)
    assert result.scored == {"pictures": 4, "pixels": 4 * SIZE[0] * SIZE[1] - 100, "segments": total - 1}
    assert result.ignored == {"pixels": 100, "segments": 1}
    assert sum(result.segments.values()) == total - 1
    assert result.segments[CATEGORY_IDS["grass"]] == 4


def test_a_panoptic_map_that_is_damaged_drops_its_picture(coco_set):
    annotations = read_panoptic_annotations(coco_set.panoptic, coco_set.pictures)
    answers = {image.path: panoptic_predictor(coco_set)(image.path) for image in annotations.file.images}
    (coco_set.maps / "000002.png").write_bytes(b"no picture")
    told = []
    result = panoptic_result(answers.__getitem__, annotations, drop=lambda image, why: told.append(image.id))
    assert told == [114]
    assert result.scored["pictures"] == 3
    assert result.all.pq == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"][0].update(isthing="no"), "category 3 must have isthing of 0 or 1, got 'no'"),
        (
            lambda c: [entry.pop("segments_info") for entry in c["annotations"]],
            "no annotation has segments_info and file_name, so this is no panoptic file",
        ),
        (lambda c: first(c).update(file_name="gone.png"), "map of picture 100 cannot be read: .*does not exist"),
    ],
)
def test_broken_panoptic_annotations_are_named(coco_set, change, message):
    coco_set.edit(coco_set.panoptic, change)
    with pytest.raises(DatasetError, match=message):
        read_panoptic_annotations(coco_set.panoptic, coco_set.pictures).truth_of(100)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["annotations"].append(first(c)), "it has 2 annotations in the file, expected one"),
        (lambda c: c["annotations"].pop(0), "it has 0 annotations in the file, expected one"),
        (lambda c: first(c).pop("segments_info"), "its annotation lacks segments_info or file_name"),
    ],
)
def test_a_picture_without_one_panoptic_annotation_is_dropped_and_stops_no_other(coco_set, change, reason):
    predict = panoptic_predictor(coco_set)
    coco_set.edit(coco_set.panoptic, change)
    annotations = read_panoptic_annotations(coco_set.panoptic, coco_set.pictures)
    assert annotations.file.dropped == (Dropped("picture", "000000.png", reason),)
    result = panoptic_result(predict, annotations)
    assert result.scored["pictures"] == 3
    assert result.all.pq == 1


# What the panoptic API makes of the four pictures' skies, of which the first is found and has this fault: tp, fp, fn.
@pytest.mark.parametrize(
    ("change", "expected", "reason"),
    [
        (lambda sky, _: sky.update(category_id=4), (3, 1, 0), r"it has the category 4, which the file does not list"),
        (lambda sky, _: sky.update(category_id=None), (3, 1, 0), "it has the category None, which the file"),
        (lambda sky, _: sky.update(iscrowd="yes"), (3, 1, 0), "iscrowd must be 0 or 1, got 'yes'"),
        (lambda sky, segments: segments.remove(sky), (3, 1, 0), "the map has it, and segments_info does not"),
        (
            lambda sky, segments: segments.insert(0, {**sky, "category_id": 3}),
            (4, 0, 0),
            "more than once, and the",
        ),
        (lambda sky, segments: segments.append({**sky, "category_id": 99}), (3, 1, 0), "more than once, and the"),
    ],
)
def test_a_broken_segment_is_dropped_and_named_and_stops_no_other(coco_set, change, expected, reason):
    predict = panoptic_predictor(coco_set)

    def broken(content):
        segments = first(content)["segments_info"]
        change(next(segment for segment in segments if segment["id"] == SKY), segments)

    coco_set.edit(coco_set.panoptic, broken)
    annotations = read_panoptic_annotations(coco_set.panoptic, coco_set.pictures)
    result = panoptic_result(predict, annotations)
    true_positives, false_positives, false_negatives = expected
    total = true_positives + 0.5 * false_positives + 0.5 * false_negatives
    assert result.per_class["sky"].pq == pytest.approx(true_positives / total)
    assert result.things.pq == result.per_class["grass"].pq == 1
    told = (*annotations.file.dropped, *result.dropped)
    assert {entry.what for entry in told} == {"segment"}
    assert {entry.name for entry in told} == {f"segment {SKY} of 000000.png"}
    assert re.search(reason, told[0].reason)
    assert result.scored["pictures"] == 4
    assert result.segments[CATEGORY_IDS["sky"]] == true_positives


def test_a_segment_whose_id_is_no_pixels_is_dropped_and_so_is_what_the_map_has_in_its_place(coco_set):
    predict = panoptic_predictor(coco_set)
    coco_set.edit(coco_set.panoptic, lambda c: first(c)["segments_info"][0].update(id="1"))
    annotations = read_panoptic_annotations(coco_set.panoptic, coco_set.pictures)
    result = panoptic_result(predict, annotations)
    assert [entry.name for entry in annotations.file.dropped] == ["segment number 0 of 000000.png"]
    assert re.search("its id must be a whole number above 0, got {'id': '1'", annotations.file.dropped[0].reason)
    assert [entry.name for entry in result.dropped] == [f"segment {SKY} of 000000.png"]


def test_a_segment_without_a_pixel_counts_as_missed_and_is_told(coco_set):
    predict = panoptic_predictor(coco_set)
    unseen = {"id": 9, "category_id": CATEGORY_IDS["sky"], "iscrowd": 0}
    coco_set.edit(coco_set.panoptic, lambda c: first(c)["segments_info"].append(unseen))
    result = panoptic_result(predict, read_panoptic_annotations(coco_set.panoptic, coco_set.pictures))
    assert result.per_class["sky"].pq == pytest.approx(4 / 4.5)
    assert result.dropped == ()
    assert result.warnings == ("1 segments have no pixel in their map and count as missed: 9 of 000000.png",)


def test_panoptic_maps_lie_beside_the_file(coco_set, tmp_path):
    annotations = read_panoptic_annotations(coco_set.panoptic, coco_set.pictures, coco_set.maps)
    ids, segments = annotations.truth_of(107)
    assert {SKY, GRASS} <= set(np.unique(ids)) == set(segments)
    with pytest.raises(DatasetError, match="nowhere is no folder"):
        read_panoptic_annotations(coco_set.panoptic, coco_set.pictures, tmp_path / "nowhere")


def test_every_model_of_the_paper_has_its_numbers():
    assert PUBLISHED["mask_rcnn_r50"]["mask AP"].paper == 36.0
    assert {name.rpartition("_r")[0] for name in PUBLISHED if "r50" in name} == {
        "faster_rcnn", "mask_rcnn", "panoptic_fpn"
    }  # fmt: skip
