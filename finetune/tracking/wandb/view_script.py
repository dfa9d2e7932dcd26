"""A saved W&B workspace and a report of one run.

`finetune wandb-view` wrote this file. Read it, change the panels as you like, and run it as often as you want: each
time it saves a new workspace and a new report.

    pip install 'wandb-workspaces>=0.4.13,<1'
    wandb login
    python wandb_view.py
"""

import unicodedata

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.reports.v2.interface import BlockTypes

# The run that this file was written for:
ENTITY: str | None = None  # none takes the default of your login
PROJECT = "sd-finetune"
RUN_ID = ""
RUN_NAME = "run"
VERDICT: list[str] = []
RATES: list[str] = ["train/lr"]
TIMESTEPS: list[str] = []
SCORES: list[str] = []
HAS_PREVIEWS = False
# End of what differs between runs.

STEP = "step"


def loss_panels() -> list[wr.LinePlot]:
    """Show the losses, as a whole and by timestep."""
    panels = [
        wr.LinePlot(
            title="Training loss", x=STEP, y=["loss/train"], smoothing_factor=0.8, smoothing_show_original=True
        ),
        wr.LinePlot(title="Validation loss", x=STEP, y=["loss/validation", "loss/base_model"]),
    ]
    if TIMESTEPS:
        panels.append(wr.LinePlot(title="Validation loss by timestep", x=STEP, y=list(TIMESTEPS)))
    return panels


def score_panels() -> list[wr.LinePlot]:
    """Show every score of the checkpoints over steps."""
    return [wr.LinePlot(title=name.removeprefix("score/"), x=STEP, y=[name]) for name in SCORES]


def rate_panels() -> list[wr.LinePlot]:
    """Show the learning rates, the gradients and the speed."""
    return [
        wr.LinePlot(title="Learning rate", x=STEP, y=list(RATES)),
        wr.LinePlot(title="Gradient norm", x=STEP, y=["train/grad_norm"], log_y=True),
        wr.LinePlot(title="Images per second", x=STEP, y=["train/images_per_second"]),
        wr.LinePlot(title="Share of time waited for data", x=STEP, y=["train/data_wait"]),
    ]


def image_panels() -> list[wr.MediaBrowser | wr.WeavePanelSummaryTable]:
    """Show the tables of all images, and the previews by step."""
    panels: list[wr.MediaBrowser | wr.WeavePanelSummaryTable] = []
    if SCORES:
        panels.append(wr.WeavePanelSummaryTable(table_name="tables/scores", layout=wr.Layout(w=24, h=16)))
    if HAS_PREVIEWS:
        panels.append(wr.WeavePanelSummaryTable(table_name="tables/previews", layout=wr.Layout(w=24, h=16)))
        panels.append(wr.MediaBrowser(title="Previews", media_keys=["previews/pictures"], layout=wr.Layout(w=24, h=12)))
    return panels


def without_symbols(name: str) -> str:
    """Remove emoji and signs from a name. W&B refuses them in names of workspaces."""
    return "".join(sign for sign in name if unicodedata.category(sign)[0] not in "SC")


def make_workspace(entity: str) -> ws.Workspace:
    """Make a workspace that compares all runs of the project."""
    sections = [("Scores of the checkpoints", score_panels()), ("Images", image_panels())]
    sections += [("Loss", loss_panels()), ("Learning rate and speed", rate_panels())]
    return ws.Workspace(
        entity=entity,
        project=PROJECT,
        name=f"Review desk: {without_symbols(RUN_NAME)}",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections if panels],
        settings=ws.WorkspaceSettings(x_axis=STEP),
    )


def make_report(entity: str) -> wr.Report:
    """Make a report of the run, with room for your own words."""
    runset = wr.Runset(entity=entity, project=PROJECT, name=RUN_NAME, filters=[ws.Metric("ID") == RUN_ID])
    blocks: list[BlockTypes] = [wr.H2("Which checkpoint to use"), *(wr.P(text) for text in VERDICT)]
    parts = [("Scores", score_panels()), ("Images", image_panels()), ("Loss", loss_panels())]
    for title, panels in [*parts, ("Learning rate and speed", rate_panels())]:
        if panels:
            blocks += [wr.H2(title), wr.PanelGrid(runsets=[runset], panels=panels)]
    blocks += [wr.H2("Notes"), wr.P("What do the images show that the scores do not?")]
    title = f"{RUN_NAME}: which checkpoint to use"[:128]
    return wr.Report(entity=entity, project=PROJECT, title=title, width="fluid", blocks=blocks)


def main() -> None:
    """Save both."""
    entity = ENTITY or wandb.Api().default_entity
    if not entity:
        raise SystemExit("error: nobody is logged in. Run: wandb login")
    print(f"Workspace: {make_workspace(entity).save().url}")
    try:
        print(f"Report: {make_report(entity).save().url}")
    except ValueError as error:
        if "not found" not in str(error):
            raise
        raise SystemExit(f"error: {error} Upload the run first: wandb sync RUN/wandb/offline-run-*") from None


if __name__ == "__main__":
    main()
