"""Stands for the package vbench: the same call, the same search for videos by name, the same files.

A video's value is 1 less a hundredth of its index; imaging quality is 0 to 100 per video and 0 to 1 in the mean,
dynamic degree true or false; likeness to an image says which. FAKE_VBENCH_FAILS names dimensions whose weights cannot
be had, FAKE_VBENCH_BREAKS others that fail.
"""

import json
import os


class VBench:
    needs_image = False

    def __init__(self, device, full_info_dir, output_path):
        assert device == "cpu"
        self.info, self.output = full_info_dir, output_path
        os.makedirs(output_path, exist_ok=True)

    def evaluate(self, videos_path, name, dimension_list, **kwargs):
        assert kwargs == {"imaging_quality_preprocessing_mode": "longer"}
        names, results = os.listdir(videos_path), {}
        assert {os.path.splitext(n)[1] for n in names} == {".mp4"}, "nothing else may lie there"
        with open(self.info) as file:
            entries = json.load(file)
        for dimension in dimension_list:
            if dimension in os.environ.get("FAKE_VBENCH_FAILS", "").split():
                raise OSError(f"HTTP Error 403:\nno weights of {dimension}")
            if dimension in os.environ.get("FAKE_VBENCH_BREAKS", "").split():
                raise ValueError("shapes differ")
            videos = []
            for entry in entries:
                if dimension not in entry["dimension"]:
                    continue
                if self.needs_image:
                    assert os.path.isfile(os.path.join("vbench2_beta_i2v/data/crop/1-1", entry["image_name"]))
                for i in range(5):
                    wanted = f"{entry['prompt_en']}-{i}.mp4"
                    assert wanted in names, wanted
                    scale = 100 if dimension == "imaging_quality" else 1
                    path = os.path.join(videos_path, wanted)
                    value = i < 3 if dimension == "dynamic_degree" else scale * (1 - i / 100)
                    videos.append({"video_path": path, "video_results": value})
                    if dimension == "i2v_subject":
                        videos[-1] |= {"image_path": entry["image_name"]}
            mean = sum(v["video_results"] for v in videos) / len(videos)
            results[dimension] = [mean / 100 if dimension == "imaging_quality" else mean, videos]
        with open(os.path.join(self.output, f"{name}_eval_results.json"), "w") as file:
            json.dump(results, file, indent=4)
