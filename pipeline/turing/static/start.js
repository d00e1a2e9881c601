"use strict";

// The pseudonym that was used here last; a browser that keeps nothing just asks again.
const field = document.getElementById("annotator");
try {
  if (field.value === "") field.value = localStorage.getItem("annotator") ?? "";
  field.form.addEventListener("submit", () => localStorage.setItem("annotator", field.value));
} catch {
  // storage is switched off
}
