import { MeshError } from '../core/errors.ts'

/** More is no password. */
const MAX_BYTES = 8_192

/** What is typed and not shown, one after the other; where standard input is no terminal, its first lines. @throws MeshError USAGE */
export async function typedSecrets(prompts: readonly string[]): Promise<string[]> {
  const lines = process.stdin.isTTY ? await typed(prompts) : await readLines()
  return prompts.map((prompt, at) => {
    const line = lines[at]
    if (line === undefined || line === '')
      throw new MeshError('USAGE', { reason: `${prompt.toLowerCase()} is missing on standard input` })
    return line
  })
}

async function readLines(): Promise<string[]> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of process.stdin) {
    chunks.push(chunk as Buffer)
    bytes += (chunk as Buffer).length
    if (bytes > MAX_BYTES) throw new MeshError('USAGE', { reason: `standard input has more than ${MAX_BYTES} bytes` })
  }
  return Buffer.concat(chunks).toString('utf8').split(/\r?\n/)
}

/** In raw mode, in which a terminal shows nothing by itself. */
async function typed(prompts: readonly string[]): Promise<string[]> {
  const { stdin, stderr } = process
  const lines: string[] = []
  stdin.setRawMode(true)
  stdin.setEncoding('utf8')
  try {
    stderr.write(`${prompts[0]}: `)
    let line = ''
    for await (const text of stdin) {
      for (const character of String(text)) {
        if (character === '\u0003') throw new MeshError('USAGE', { reason: 'interrupted' })
        if (character === '\r' || character === '\n' || character === '\u0004') {
          stderr.write('\n')
          lines.push(line)
          line = ''
          if (lines.length === prompts.length) return lines
          stderr.write(`${prompts[lines.length]}: `)
        } else if (character === '\u007f' || character === '\b') line = line.slice(0, -1)
        else line += character
      }
      if (line.length > MAX_BYTES) throw new MeshError('USAGE', { reason: 'it is too long' })
    }
    return lines
  } finally {
    stdin.setRawMode(false)
    stdin.pause()
  }
}
