"""Make `page.png` and `page-phone.png`, the pictures of the page in the README: the demo after its break, in a browser.

make screenshots    (needs chromium: apt install chromium)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
STREAM = "/stream?model=demo-xgb&symbol=BTC%2FUSDT%3AUSDT&timeframe=5m"


def main() -> int:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        print("There is no chromium here, so no picture can be taken: apt install chromium", file=sys.stderr)
        return 2
    command = [sys.executable, "-u", "-m", "regime_service.cli", "demo", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        try:
            address = next(line.split()[5].rstrip(".") for line in demo.stdout if "The service stays up at" in line)
            take(browser, address.removesuffix("."))
        finally:
            demo.terminate()
    return 0


def take(program: str, address: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-quic"])
        for name, width, height, scheme in (("page", 1000, 2180, "light"), ("page-phone", 400, 1700, "dark")):
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            page = context.new_page()
            page.goto(address + STREAM)
            page.wait_for_timeout(3_000)
            page.screenshot(path=HERE / f"{name}.png")
            print(f"Written: {HERE / name}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
