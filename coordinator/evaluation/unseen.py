"""Which of the tasks that are evaluated as unseen stations may train on all the same. Pure."""

from coordinator.config import EvaluationSection
from shared.recipe import Recipe
from shared.tasks import plain_task
from sim.tasks import COLORS, VERBS, Task

_SENTENCES = {f"{verb}_{color}": Task(verb, color).text for verb in VERBS for color in COLORS}


def may_train(settings: EvaluationSection, recipe: Recipe) -> dict[str, str]:
    """Key to sentence of each task of `unseen` that the recipe does not keep from training."""
    kept = {plain_task(task) for task in recipe.never_train}
    sentences = {task.key: _SENTENCES.get(task.key, task.key) for task in settings.unseen}
    return {key: sentence for key, sentence in sentences.items() if plain_task(sentence) not in kept}


def warning(sentences: list[str], recipe: Recipe) -> str:
    """What it means, and the line that mends it."""
    wanted = ", ".join(f'"{sentence}"' for sentence in (*recipe.never_train, *sentences))
    return (
        f"[evaluation] unseen names tasks that stations may train on ({', '.join(sentences)}): they are "
        f"measured, but don't count as unseen. To keep their demonstrations from training, everywhere and "
        f"from now on, write under [recipe]: never_train = [{wanted}]"
    )
