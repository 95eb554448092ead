"""Plugins as they are really found: distributions with entry points on ``sys.path``."""

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent
from uuid import uuid4

import pytest

from imgsim.core.errors import PluginError
from imgsim.pipeline.plugins import StageOrigin, collect_stages, load_plugins
from imgsim.settings import load_settings

Install = Callable[..., str]

BUILT_IN = ["embed", "fingerprint", "thumbnail", "index", "copies"]
PLUGINS = ["embed", "copies", "thumbnail", "index", "copies"]
"""Of each of these stages."""
"""In their order."""

STAGE = """
    import imgsim

    class Stage:
        name = "extra"
        after = "embed"
        async def run(self, ctx): ...

    @imgsim.hookimpl
    def imgsim_stages(settings):
        return [Stage()]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a distribution of one module with one plugin importable; returns the module's name."""

    def install(source: str, plugin: str = "extra", version: str = "1.2") -> str:
        module = f"plugin_{uuid4().hex}"
        folder = tmp_path / module
        metadata = folder / f"{module}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (folder / f"{module}.py").write_text(dedent(source))
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(f"[imgsim]\n{plugin} = {module}\n")
        monkeypatch.syspath_prepend(folder)
        return module

    return install


def stages(*disabled: str, **pipeline: object) -> Sequence[StageOrigin]:
    settings = load_settings(overrides={"plugins": {"disabled": disabled}, "pipeline": {"stages": pipeline}})
    return collect_stages(load_plugins(disabled), settings)


def names(origins: Sequence[StageOrigin]) -> list[str]:
    return [origin.stage.name for origin in origins]


def refusal(*disabled: str, **pipeline: object) -> str:
    with pytest.raises(PluginError) as raised:
        stages(*disabled, **pipeline)
    return raised.value.message


def test_the_built_in_stages_come_as_plugins_of_imgsim() -> None:
    found = stages()

    assert names(found) == BUILT_IN
    assert [origin.plugin for origin in found] == PLUGINS
    assert all(origin.distribution.startswith("imgsim ") for origin in found)


def test_an_installed_plugin_adds_its_stage_in_its_place_with_its_origin(install: Install) -> None:
    module = install(STAGE)

    (origin,) = (each for each in stages() if each.stage.name not in BUILT_IN)

    assert (origin.stage.name, origin.plugin) == ("extra", "extra")
    assert origin.distribution == f"{module} 1.2"


def test_a_plugin_is_given_the_settings(install: Install) -> None:
    install(STAGE.replace("[Stage()]", "[setattr(Stage, 'name', f'on-port-{settings.port}') or Stage()]"))

    assert "on-port-8000" in names(stages())


def test_a_plugin_may_add_no_stage(install: Install) -> None:
    install(STAGE.replace("[Stage()]", "[]"))

    assert names(stages()) == BUILT_IN


def test_a_disabled_plugin_is_not_even_imported(install: Install) -> None:
    install("raise RuntimeError('imported')")

    assert names(stages("extra")) == BUILT_IN


def test_disabling_an_unknown_name_names_the_plugins_there_are() -> None:
    assert refusal("palete") == (
        "The setting plugins.disabled names 'palete', which is no plugin. "
        f"There are: {', '.join(sorted(set(PLUGINS)))}."
    )


def test_disabling_a_stage_that_others_need_names_both() -> None:
    assert "'index' is to run after 'embed'" in refusal("embed", "copies")


def test_disabling_all_stages_is_an_error() -> None:
    assert "plugins.disabled leaves none" in refusal(*set(PLUGINS))


def test_a_misspelt_hook_names_the_hooks_the_plugin_and_the_way_out(install: Install) -> None:
    module = install(STAGE.replace("imgsim_stages", "imgsim_stagse"))

    message = refusal()

    assert f"The plugin 'extra' ({module} 1.2) cannot be used: unknown hook 'imgsim_stagse'" in message
    assert "There are the hooks: imgsim_stages." in message
    assert "plugins.disabled = ['extra']" in message
    assert "\n" not in message


def test_a_hook_with_wrong_arguments_says_which(install: Install) -> None:
    install(STAGE.replace("(settings)", "(config)"))

    message = refusal()

    assert "The plugin 'extra'" in message
    assert "{'config'} are declared in the hookimpl but can not be found in the hookspec" in message


def test_a_hook_without_its_mark_is_not_passed_over_in_silence(install: Install) -> None:
    install(STAGE.replace("@imgsim.hookimpl", ""))

    assert "implements no hook" in (message := refusal())
    assert "@imgsim.hookimpl" in message


def test_a_plugin_that_cannot_be_imported_says_why(install: Install) -> None:
    install("import a_module_that_nobody_has")

    message = refusal()

    assert "'extra'" in message
    assert "cannot be imported: ModuleNotFoundError: No module named 'a_module_that_nobody_has'" in message


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("['stage']", "gave 'stage', which is no stage: it needs name and run()"),
        ("[Stage]", "it is the class, not an instance"),
        ("[setattr(Stage, 'name', 'my stage') or Stage()]", "its name must be of 1 to 100 letters"),
        ("[setattr(Stage, 'name', 7) or Stage()]", "its name must be of 1 to 100 letters"),
        ("[setattr(Stage, 'after', 5) or Stage()]", "its after and before must be names of stages"),
        ("[setattr(Stage, 'run', lambda self, ctx: 1) or Stage()]", "its run must be an async function"),
        ("Stage()", "failed in imgsim_stages, which must return a list of stages: TypeError"),
        ("[settings.no_such_key]", "failed in imgsim_stages, which must return a list of stages: AttributeError"),
    ],
)
def test_what_is_no_stage_is_refused_with_the_reason(install: Install, given: str, fault: str) -> None:
    install(STAGE.replace("[Stage()]", given))

    message = refusal()

    assert "The plugin 'extra'" in message
    assert fault in message


def test_two_plugins_with_a_stage_of_one_name_are_both_named(install: Install) -> None:
    install(STAGE, plugin="one")
    install(STAGE, plugin="two")

    assert refusal() == "Two stages are named 'extra': one of the plugin 'one' and one of 'two'."


def test_two_plugins_of_one_name_are_an_error_that_names_their_distributions(install: Install) -> None:
    module = install(STAGE, plugin="embed")

    assert "Two plugins are named 'embed'" in (message := refusal())
    assert f"{module} 1.2" in message
    assert "imgsim " in message


def test_settings_for_a_stage_that_does_not_exist_name_those_there_are() -> None:
    assert refusal(embde={"retries": 1}) == (
        "The setting pipeline.stages.embde is for a stage that does not exist. "
        f"There are: {', '.join(sorted(BUILT_IN))}."
    )


def test_settings_for_a_disabled_plugin_may_stay(install: Install) -> None:
    install(STAGE)

    assert names(stages("extra", extra={"retries": 1})) == BUILT_IN
