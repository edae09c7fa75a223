/** Where a file is dropped or chosen. */

import { useId, useState } from "preact/hooks";

export function DropZone({ onFile }: { onFile: (name: string, text: string) => void }) {
  const [over, setOver] = useState(false);
  const id = useId();
  const read = (file: File | undefined) => {
    if (file) void file.text().then((text) => onFile(file.name, text));
  };
  const onDrop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    read(event.dataTransfer?.files[0]);
  };
  const onDragOver = (event: DragEvent) => {
    event.preventDefault(); // or the browser would open the file
    setOver(true);
  };
  return (
    <div class={over ? "drop over" : "drop"} onDrop={onDrop} onDragOver={onDragOver} onDragLeave={() => setOver(false)}>
      <label for={id}>
        <strong>Drop a file here</strong>, or <span class="link">choose one</span>
      </label>
      <p class="hint">JSONL or CSV, up to 10,000 rows</p>
      <input
        id={id}
        class="hidden-label"
        type="file"
        accept=".jsonl,.ndjson,.json,.csv"
        onChange={(event) => {
          read(event.currentTarget.files?.[0]);
          event.currentTarget.value = ""; // the same file can be chosen again
        }}
      />
    </div>
  );
}
