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
      <label for={id}>Drop a JSONL or CSV file here, or choose one</label>
      <input
        id={id}
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
