"""What the core itself brings: the model adapter and the metrics, through the same hooks as any plugin."""

from collections.abc import Iterator

from pluggy import HookimplMarker

from flc.api import Algorithm

hookimpl = HookimplMarker("flc")


@hookimpl
def flc_models() -> Iterator[Algorithm]:
    room = "flc.models"
    about = "Wan 2.1 text-to-video, Wan 2.2 TI2V (diffusers)"
    yield Algorithm("wan", f"{room}.wan:WanAdapter", about, "arXiv:2503.20314")
    about = "Wan 2.1 image-to-video (diffusers)"
    yield Algorithm("wan-image", f"{room}.wan_image:WanImageAdapter", about, "arXiv:2503.20314")
    about = "HunyuanVideo text-to-video (diffusers)"
    yield Algorithm("hunyuan", f"{room}.hunyuan:HunyuanAdapter", about, "arXiv:2412.03603")
    about = "HunyuanVideo image-to-video (diffusers)"
    yield Algorithm("hunyuan-image", f"{room}.hunyuan_image:HunyuanImageAdapter", about, "arXiv:2412.03603")


@hookimpl
def flc_metrics() -> Iterator[Algorithm]:
    room = "flc.evaluate"
    yield Algorithm("caption_accuracy", f"{room}.metrics:CaptionAccuracy", "Shape, colour and motion of the caption")
    yield Algorithm("dynamic_degree", f"{room}.metrics:DynamicDegree", "As much motion as in drawn clips")
    yield Algorithm("motion_smoothness", f"{room}.metrics:MotionSmoothness", "No more jerk than in drawn clips")
    yield Algorithm("temporal_flicker", f"{room}.metrics:TemporalFlicker", "No more flicker than in drawn clips")
    yield Algorithm("sharpness", f"{room}.metrics:Sharpness", "Edges as steep as in drawn clips, no halos")
    yield Algorithm("subject_consistency", f"{room}.consistency:SubjectConsistency", "The object keeps its outline")
    yield Algorithm("first_frame_fidelity", f"{room}.metrics:FirstFrameFidelity", "A given first frame is kept")
    yield Algorithm("diversity", f"{room}.diversity:Diversity", "Clips of one caption differ as drawn ones do (guard)")
    yield Algorithm("distribution", f"{room}.distribution:Distribution", "Distance to the drawn clips (guard)")
