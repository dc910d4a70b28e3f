/** The last lines of a log that grows, in pieces that end anywhere. */
export interface LogLines {
  lines: readonly string[]
  /** What came behind the last line feed. */
  begun: string
}

export const NO_LINES: LogLines = { lines: [], begun: '' }

/** Older lines are left to `hedgerow logs`. */
const MOST_LINES = 1_000
/** A line without an end is cut there. */
const MOST_CHARS = 4_000

export function withText({ lines, begun }: LogLines, text: string): LogLines {
  const parts = (begun + plain(text)).split('\n')
  const rest = parts.pop() ?? ''
  const isLong = rest.length > MOST_CHARS
  const more = [...parts, ...(isLong ? [rest] : [])].map((line) => line.slice(0, MOST_CHARS))
  return { lines: [...lines, ...more].slice(-MOST_LINES), begun: isLong ? '' : rest }
}

/** Without colours and other sequences for terminals, and without controls. */
function plain(text: string): string {
  // eslint-disable-next-line no-control-regex
  return text.replaceAll(/\u001b\[[0-9;:?]*[A-Za-z]|[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, '')
}
