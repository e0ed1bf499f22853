"""A local web page for a trained model, with sliders for latents and switches for labels. No data leaves the machine.

pip install -e ".[demo]"
python examples/demo.py --checkpoint runs/ccvae-fashionmnist   # the folder of a run, or a checkpoint in it
"""

import argparse
import os
import tempfile
from functools import partial
from typing import Any

from pyro_semivae import cli
from pyro_semivae.demo import OPEN, Page, Session, open_run, picture
from pyro_semivae.errors import InputError
from pyro_semivae.flags import count, naming

CSS = """footer {display: none !important} #message {color: #b91c1c; min-height: 1.5em}
#pictures {position: sticky; top: 10px; align-self: flex-start}
.grid-container {grid-template-columns: repeat(8, minmax(0, 1fr)) !important; gap: 4px !important}
.grid-container {grid-template-rows: none !important; grid-auto-rows: auto !important; align-content: start}
.thumbnail-item {width: 100% !important; height: auto !important; aspect-ratio: 1; border-radius: 0 !important}
.thumbnail-item img {image-rendering: pixelated}"""
FONT = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # system fonts, so that none is downloaded


def chooser(gr: Any, page: Page, name: str) -> tuple[Any, Any]:
    """A gallery of images, and a button to upload one."""
    gr.Markdown(f"**{name}**")
    look = {"columns": 8, "height": 230, "object_fit": "contain", "allow_preview": False, "buttons": []}
    images = [picture(x) for x in page.images]
    gallery = gr.Gallery(images, show_label=False, interactive=False, visible=bool(images), format="png", **look)
    return gallery, gr.UploadButton(f"Upload: {name.lower()}", size="sm")


def build(gr: Any, page: Page, title: str, note: str) -> Any:
    """The page as Gradio's blocks."""
    explorer = page.explorer
    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        session = gr.State(Session())
        gr.Markdown(f"### {title}\n{note}")
        with gr.Row():
            with gr.Column(scale=5, min_width=340):
                choosers = [chooser(gr, page, name) for name in ("Image", "Second image")[: 1 + explorer.swaps]]
                takes = ("characteristics", "rest") if explorer.swaps else ()
                swaps = {take: gr.Button(f"Swap: take its {take}", size="sm") for take in takes}
            with gr.Column(scale=5, min_width=470, elem_id="pictures"):
                pictures, message = gr.HTML(), gr.HTML(elem_id="message")
                with gr.Row():
                    back = gr.Button("Back to the image", size="sm")
                    redraw = gr.Button("Sample anew", size="sm", visible=explorer.resamples)
            with gr.Column(scale=6, min_width=320):
                switches, sliders = [], []
                for choice in explorer.choices:
                    values = [("open", OPEN), *((name, i) for i, name in enumerate(choice.values))]
                    switches.append(gr.Radio(values, value=OPEN, label=choice.name, min_width=230, render=False))
                for s in explorer.sliders:
                    look = {"label": s.name, "step": 0.01, "buttons": [], "min_width": 200, "render": False}
                    sliders.append(gr.Slider(round(s.low, 2), round(s.high, 2), **look))
                # A label's switch is beside the slider of its own latent.
                paired = [choice.name for choice in explorer.choices] == [slider.name for slider in explorer.sliders]
                for row in zip(switches, sliders, strict=True) if paired else [(*switches, *sliders)]:
                    with gr.Row() if paired else gr.Column():
                        for one in row:
                            one.render()
        shown = [session, pictures, message, *switches, *sliders]

        def on(event: Any, handler: Any, *inputs: Any, outputs: list = shown, **how: Any) -> None:
            event(handler, [*inputs], outputs, show_progress="hidden", api_visibility="private", queue=False, **how)

        def select(second: bool) -> Any:
            def selected(session: Session, event: gr.SelectData) -> list:
                return page.choose(session, event.index, second)

            return selected

        on(blocks.load, page.begin)
        for i, (gallery, upload) in enumerate(choosers):
            on(gallery.select, select(i > 0), session)
            on(upload.upload, partial(page.upload, second=i > 0), session, upload)
        for take, button in swaps.items():
            on(button.click, partial(page.swap, take=take), session)
        for i, switch in enumerate(switches):
            on(switch.input, lambda session, value, i=i: page.switch(session, i, value), session, switch)
        for i, slider in enumerate(sliders):
            on(
                slider.input,
                lambda session, value, i=i: page.move(session, i, value),
                session,
                slider,
                outputs=shown[:3],
                trigger_mode="always_last",  # keeps the last position of a slider that is dragged
            )
        on(back.click, page.back, session)
        on(redraw.click, page.redraw, session)
    return blocks


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="the folder of a run, or a checkpoint in it")
    parser.add_argument("--data-dir", help="root of the data sets (default: that of the run)")
    parser.add_argument("--port", type=count(1, 65535), help="local port (default: the first free one from 7860)")
    args = parser.parse_args()
    with naming("--checkpoint", "checkpoint"):
        trained = open_run(args.checkpoint, args.data_dir)
    with naming("--checkpoint", "model"):
        page = Page(trained)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before it is imported
    try:
        import gradio as gr
    except ImportError as error:
        raise InputError(f'{error}; the demo takes it: pip install -e ".[demo]"') from error
    note = f"The run's images are not there: {trained.why_not}. Uploads work." if trained.why_not else ""
    if note:
        print(f"NOTE: {note}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # for uploads and thumbnails; removed at the end
        blocks = build(gr, page, trained.name, note)
        local = {"server_name": "127.0.0.1", "server_port": args.port, "share": False, "ssr_mode": False}
        look = {"theme": gr.themes.Default(primary_hue="blue", **FONT), "css": CSS, "footer_links": []}
        blocks.launch(**local, **look, quiet=True, prevent_thread_lock=True)
        print(f"{trained.name}: {blocks.local_url} (Ctrl-C ends it)", flush=True)
        blocks.block_thread()


if __name__ == "__main__":
    cli.main(run)
