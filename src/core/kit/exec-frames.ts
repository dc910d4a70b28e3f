/*
 * What a command prints in an instance, on its way to whoever started it:
 *
 *     ┌──────┬─────────────────┬───────┐
 *     │ kind │ length, 32 bit  │ bytes │      1 standard output, 2 standard error, 3 the end: the exit code in digits
 *     └──────┴─────────────────┴───────┘
 */

const KINDS = ['stdout', 'stderr', 'exit'] as const
export type ExecFrameKind = (typeof KINDS)[number]

export interface ExecFrame {
  kind: ExecFrameKind
  bytes: Buffer
}

const HEADER_BYTES = 5
/** A longer frame is none of ours. */
const MAX_FRAME_BYTES = 16 * 1024 * 1024

export function execFrame(kind: ExecFrameKind, bytes: Buffer): Buffer {
  const header = Buffer.alloc(HEADER_BYTES)
  header[0] = KINDS.indexOf(kind) + 1
  header.writeUInt32BE(bytes.length, 1)
  return Buffer.concat([header, bytes])
}

/** The frames in those bytes, however they are cut. @throws Error when they are something else */
export async function* execFrames(chunks: AsyncIterable<Buffer>): AsyncGenerator<ExecFrame> {
  let held = Buffer.alloc(0)
  for await (const chunk of chunks) {
    held = Buffer.concat([held, chunk])
    while (held.length >= HEADER_BYTES) {
      const kind = KINDS[(held[0] as number) - 1]
      const length = held.readUInt32BE(1)
      if (kind === undefined || length > MAX_FRAME_BYTES) throw new Error('not the output of a command')
      if (held.length < HEADER_BYTES + length) break
      yield { kind, bytes: held.subarray(HEADER_BYTES, HEADER_BYTES + length) }
      held = held.subarray(HEADER_BYTES + length)
    }
  }
}
