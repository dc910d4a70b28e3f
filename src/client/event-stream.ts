/** One message of a stream of server-sent events. */
export interface StreamMessage {
  event: string
  data: string
  /** By which the stream goes on behind it (`Last-Event-ID`). */
  id?: string
}

/** Longer ones are no messages of a root. */
const MAX_CHARS = 1024 * 1024

/**
 * The messages in the text of a stream (https://html.spec.whatwg.org/multipage/server-sent-events.html), as far as a root writes them: each
 * field on one line, lines that end with a line feed, a blank line after each message. One that is cut off at the end is left out.
 */
export async function* messagesIn(text: AsyncIterable<string>): AsyncIterable<StreamMessage> {
  let begun = ''
  for await (const some of text) {
    const parts = (begun + some).split('\n\n')
    begun = parts.pop() ?? ''
    if (begun.length > MAX_CHARS) throw new Error('a message of the stream does not end')
    for (const part of parts) {
      const fields = new Map(part.split('\n').map(fieldOf))
      const data = fields.get('data')
      const id = fields.get('id')
      const event = fields.get('event') ?? 'message'
      if (data !== undefined) yield { event, data, ...(id === undefined ? {} : { id }) }
    }
  }
}

function fieldOf(line: string): [name: string, value: string] {
  const at = line.indexOf(':')
  return at < 0 ? [line, ''] : [line.slice(0, at), line.slice(at + 1).replace(/^ /, '')]
}
