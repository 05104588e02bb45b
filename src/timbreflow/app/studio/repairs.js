() => {
  document.documentElement.lang = "en";
}
