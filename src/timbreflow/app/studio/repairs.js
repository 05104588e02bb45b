() => {
  document.documentElement.lang = "en";
  // Gradio names some buttons otherwise than they read: who speaks to the page says what is written.
  const repair = () => {
    for (const button of document.querySelectorAll("button[aria-label]")) {
      const text = button.innerText.trim().replace(/\s+/g, " ");
      if (text && !button.getAttribute("aria-label").includes(text)) button.setAttribute("aria-label", `${text}, ${button.getAttribute("aria-label").toLowerCase()}`);
    }
  };
  let waiting = 0;
  new MutationObserver(() => { clearTimeout(waiting); waiting = setTimeout(repair, 200); })
    .observe(document.body, { childList: true, subtree: true, characterData: true });
  repair();
}
