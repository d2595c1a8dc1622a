"""Says in many wordings, English and Chinese, what a drawn clip shows.

Only scene and action are told, never what the person looks like: likeness is the adapters' part,
and a caption that gave it away would teach the model to ignore them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from random import Random

from lynx_engine.training.drawings import Action
from lynx_engine.training.scenes import Scene

_WHO = ("A person", "Someone", "The person", "A character")

_ACTIONS: Mapping[Action, tuple[str, ...]] = {
    Action.WAVE: ("waves", "waves at the camera", "is waving a hand", "greets with one hand"),
    Action.NOD: ("nods", "is nodding", "says yes with the head", "nods slowly"),
    Action.SHAKE_HEAD: ("shakes the head", "is shaking their head", "looks left and right"),
    Action.WALK: ("walks", "is walking", "walks along", "takes a walk"),
    Action.SMILE: ("smiles", "is smiling", "begins to smile", "smiles at the camera"),
    Action.JUMP: ("jumps", "is jumping up and down", "hops", "jumps for joy"),
    Action.CHEER: ("cheers", "is cheering", "raises both arms", "cheers with both hands up"),
    Action.STAND: ("stands still", "is standing", "stands and waits", "poses quietly"),
}
_SCENES: Mapping[Scene, tuple[str, ...]] = {
    Scene.PARK: ("in a park", "in the park", "on a lawn between trees", "in a green park"),
    Scene.BEACH: ("on a beach", "at the beach", "by the sea", "on the sand by the ocean"),
    Scene.NIGHT_CITY: ("in a city at night", "at night in the city", "before lit skyscrapers"),
    Scene.ROOM: ("in a room", "at home", "indoors by a window", "in a living room"),
    Scene.SNOW: ("in the snow", "in snowy mountains", "on a winter day in the mountains"),
    Scene.DESERT: ("in a desert", "in the desert at sunset", "among dunes at sunset"),
    Scene.FOREST: ("in a forest", "in the woods", "deep in a dark forest"),
    Scene.STAGE: ("on a stage", "on stage before a red curtain", "in a theatre"),
}
_CHINESE_ACTIONS: Mapping[Action, str] = {
    Action.WAVE: "挥手",
    Action.NOD: "点头",
    Action.SHAKE_HEAD: "摇头",
    Action.WALK: "走路",
    Action.SMILE: "微笑",
    Action.JUMP: "跳跃",
    Action.CHEER: "欢呼",
    Action.STAND: "站着",
}
_CHINESE_SCENES: Mapping[Scene, str] = {
    Scene.PARK: "公园里",
    Scene.BEACH: "海滩上",
    Scene.NIGHT_CITY: "夜晚的城市里",
    Scene.ROOM: "房间里",
    Scene.SNOW: "雪山上",
    Scene.DESERT: "沙漠里",
    Scene.FOREST: "森林里",
    Scene.STAGE: "舞台上",
}


def captions_of(scene: Scene, action: Action) -> tuple[str, ...]:
    """Return every wording for a scene and an action; no two scenes and actions share one."""
    english = [
        sentence
        for who, does, where in product(_WHO, _ACTIONS[action], _SCENES[scene])
        for sentence in (
            f"{who} {does} {where}.",
            f"{where[0].upper()}{where[1:]}, {who[0].lower()}{who[1:]} {does}.",
        )
    ]
    chinese = [
        f"{who}在{_CHINESE_SCENES[scene]}{_CHINESE_ACTIONS[action]}。" for who in ("一个人", "有人")
    ]
    return (*english, *chinese)


def draw_caption(scene: Scene, action: Action, random: Random) -> str:
    """Return one of the wordings; one in eight is Chinese."""
    wordings = captions_of(scene, action)
    english = [text for text in wordings if text.isascii()]
    chinese = [text for text in wordings if not text.isascii()]
    return random.choice(chinese if random.random() < 1 / 8 else english)
