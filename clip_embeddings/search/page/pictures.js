// A picture from outside: dropped, pasted or chosen. It is looked for beside the words in the box.

// Above this many bytes a picture is made smaller before it is sent: no model looks at more pixels.
const SMALL = 400_000;
const SIDE = 1024;

async function searchWith(file) {
  if (!file) return;
  say("Reading the picture …");
  try {
    const picture = await asUri(file);
    const text = at("query").value.trim();
    find({ picture, ...(text && { text }) });
  } catch {
    say("");
    tell(at("problem"), "The picture could not be read.");
  }
}

async function asUri(file) {
  if (file.size > SMALL) {
    try {
      const bitmap = await createImageBitmap(file);
      const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
      const canvas = document.createElement("canvas");
      canvas.width = Math.max(1, Math.round(bitmap.width * scale));
      canvas.height = Math.max(1, Math.round(bitmap.height * scale));
      const brush = canvas.getContext("2d");
      brush.imageSmoothingQuality = "high";
      brush.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      bitmap.close();
      return canvas.toDataURL("image/jpeg", 0.92);
    } catch {
      // Not a format of this browser (HEIC), or no picture at all: the server knows.
    }
  }
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    // The type is a claim; the server looks at the bytes. Without one the reader may write "data:base64".
    reader.onload = () => resolve(`data:image/*;base64,${reader.result.split(",")[1] ?? ""}`);
    reader.onerror = reject;
    reader.readAsDataURL(file);
  });
}

// The small picture in the box of what is looked for.
function preview(wanted) {
  const chip = at("picture");
  chip.hidden = !(wanted?.picture || wanted?.uri);
  chip.classList.remove("blank", "refused");
  unload(at("preview"));
  // What this browser cannot show may be a picture nevertheless: it gets a sign, not a broken picture.
  const blank = () => {
    chip.classList.add("blank");
    chip.hidden = chip.classList.contains("refused");
  };
  if (wanted?.picture?.startsWith("data:")) {
    at("preview").onerror = blank;
    at("preview").onload = () => at("preview").classList.add("there");
    at("preview").src = wanted.picture;
  } else if (wanted?.uri) {
    load(at("preview"), address("thumbnail", { uri: wanted.uri, size: TILE }), blank);
  } else if (wanted?.picture) {
    // A picture of another site is the server's to fetch; this page loads nothing from anywhere else.
    blank();
  }
}

// The server refused what was looked for: what cannot be shown either is no picture, and gets no sign.
function refused() {
  const chip = at("picture");
  chip.classList.add("refused");
  if (chip.classList.contains("blank")) chip.hidden = true;
}

let leaving = 0;
addEventListener("dragover", (event) => {
  const kinds = event.dataTransfer.types;
  if (!kinds.includes("Files") && !kinds.includes("text/uri-list")) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "copy";
  const text = at("query").value.trim();
  at("drop-words").textContent = text ? `Drop it to find “${text}” in pictures like it` : "Drop it to find pictures like it";
  at("drop").hidden = false;
  clearTimeout(leaving);
  leaving = setTimeout(() => (at("drop").hidden = true), 250);
});
addEventListener("drop", (event) => {
  at("drop").hidden = true;
  const [file] = event.dataTransfer.files;
  const url = event.dataTransfer.getData("text/uri-list").split("\n")[0].trim();
  if (!file && !url) return;
  event.preventDefault();
  // A picture dragged from another page comes as its address, which the server fetches.
  if (file) searchWith(file);
  else find({ picture: url, ...(at("query").value.trim() && { text: at("query").value.trim() }) });
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (!file) return;
  event.preventDefault();
  searchWith(file);
});
at("choose").onclick = () => at("file").click();
at("file").onchange = () => {
  searchWith(at("file").files[0]);
  at("file").value = "";
};
at("picture").onclick = () => {
  const text = at("query").value.trim();
  if (text && wish()?.text) find({ text });
  else go("./");
  at("query").focus();
};
