import { isData, jsonText, tableText, type Format } from './output.ts'

/** What a role prints once it serves: its addresses, and for people what they can do next. */
export function readyText(summary: Readonly<Record<string, string>>, format: Format): string {
  if (isData({ format })) return jsonText(summary) // which is YAML, too
  const steps = nextSteps(summary).map((line) => `${line}\n`)
  return [
    tableText(['hedgerow', 'ready'], Object.entries(summary)),
    ...(steps.length === 0 ? [] : ['\n', ...steps]),
  ].join('')
}

const NAME = 'hello.demo.greeter.demo.any.rr.local'

/** Commands to paste, for the app of the README; with the address and port at which this agent really answers. */
export function nextSteps({ role = '', resolver = '' }: Readonly<Record<string, string>>): string[] {
  switch (role) {
    case 'up':
      return [
        'Next, in another terminal:',
        '  hedgerow apply -f hello.yaml      # the document is in README.md and in examples/',
        '  hedgerow get instances',
        `  hedgerow with-proxy -- curl -s http://${NAME}:8080/`,
        ...(resolver === '' ? [] : [`  ${digCommand(resolver)}`]),
      ]
    case 'root':
      return ['Next: `hedgerow token create --role cluster > cluster.token`, then start a cluster with it.']
    case 'cluster':
      return ['Next: `hedgerow token create > node.token` where the root runs, then start an agent with it.']
    default:
      return []
  }
}

/** `resolver` is host:port. */
function digCommand(resolver: string): string {
  const at = resolver.lastIndexOf(':')
  const host = resolver.slice(0, at).replace(/^\[(.*)\]$/, '$1')
  const port = resolver.slice(at + 1)
  return `dig +short @${host}${port === '53' ? '' : ` -p ${port}`} ${NAME}`
}
