import { execFileSync } from 'node:child_process'

/** What went over the connections to these ports until now. */
export interface Traffic {
  /** Segments with something in them, both directions: messages, as none is long at rest. */
  messages: number
  /** What is in them, encrypted. */
  content: number
  /** With the headers of IPv4 and TCP, bare acknowledgements, and the probes of both kernels (core/kit/websocket.ts). */
  bytes: number
}

/** IPv4 20, TCP 20, timestamps 12. */
const HEADERS = 52

/** Reads the kernel's count of each connection whose far end is one of these ports; `undefined` where `ss` is missing. */
export function trafficTo(ports: ReadonlySet<number>): Traffic | undefined {
  const text = connections()
  if (text === undefined) return undefined
  const sum: Traffic = { messages: 0, content: 0, bytes: 0 }
  for (const line of text.split('\n')) {
    const far = Number(/^ESTAB\s+\d+\s+\d+\s+\S+\s+\S+:(\d+)\s/.exec(line)?.[1])
    if (!ports.has(far)) continue
    const count = (name: string) => Number(new RegExp(` ${name}:(\\d+)`).exec(line)?.[1] ?? 0)
    sum.messages += count('data_segs_out') + count('data_segs_in')
    const content = count('bytes_sent') + count('bytes_received')
    sum.content += content
    sum.bytes += content + HEADERS * (count('segs_out') + count('segs_in'))
  }
  return sum
}

function connections(): string | undefined {
  try {
    return execFileSync('ss', ['-tnOHi'], { encoding: 'utf8', maxBuffer: 256 * 1024 * 1024 })
  } catch {
    return undefined
  }
}
