import t from 'tap'
import { watchDrain } from '../../src/cli/drain.ts'
import type { RootClient } from '../../src/client/root-client.ts'
import { MeshError } from '../../src/core/errors.ts'

/** What `hedgerow drain` prints. What moves, waits and stays: test/orchestrator/drain.test.ts. */

type Status = Parameters<typeof watchDrain>[1]['begun']
type Left = Status['left'][number]
/** What the root answers at one look: what is left on the node, and where instances are. */
interface Look {
  left?: Left[]
  leaving?: number
  isDraining?: boolean
  places?: Record<string, { node?: string; state?: string }>
}

/** The last look goes on. */
function rootWith(looks: readonly Look[]): Pick<RootClient, 'ask'> {
  let at = -1
  const ask = async (_method: string, path: string, given: { path: { name?: string } }) => {
    if (path.endsWith('/drain')) at = Math.min(at + 1, looks.length - 1)
    const { left = [], leaving = 0, isDraining = true, places = {} } = looks[at] ?? {}
    if (path.endsWith('/drain')) return { left, leaving, isDraining }
    const { name = '' } = given.path
    const row = places[name]
    if (row === undefined) throw new MeshError('INSTANCE_UNKNOWN', { instance: name })
    return row
  }
  return { ask: ask as RootClient['ask'] }
}

async function printed(begun: Left[], looks: readonly Look[]): Promise<{ lines: string[]; outcome: unknown }> {
  const lines: string[] = []
  const outcome = await watchDrain(rootWith(looks), {
    node: 'edge/n1',
    begun: { isDraining: true, left: begun, leaving: 0 },
    limitMs: 60_000,
    print: (line) => void lines.push(line),
    progress: () => undefined,
    pollMs: 0,
  }).catch((error: unknown) => (error as MeshError).code)
  return { lines, outcome }
}

const moving = (instance: string, to?: string): Left => ({
  instance,
  state: 'moving',
  ...(to === undefined ? {} : { to }),
})
const n2 = { node: 'edge/n2', state: 'running' }

const rows = [
  {
    why: 'slow: its successor is told, then where it is',
    begun: [moving('x')],
    looks: [{ left: [moving('x', 'edge/n2')] }, { left: [moving('x', 'edge/n2')] }, { places: { x: n2 } }],
    says: ['x moves to edge/n2', 'x is on edge/n2'],
    outcome: ['x'],
  },
  {
    why: 'quicker than a look',
    begun: [moving('x'), moving('y')],
    looks: [{ places: { x: n2, y: { node: 'far/n7', state: 'running' } } }],
    says: ['x is on edge/n2', 'y is on far/n7'],
    outcome: ['x', 'y'],
  },
  {
    why: 'the root hears a moment later where it went',
    begun: [moving('x')],
    looks: [{ places: { x: { node: 'edge/n1', state: 'running' } } }, { places: { x: n2 } }],
    says: ['x is on edge/n2'],
    outcome: ['x'],
  },
  {
    why: 'nobody says where it went: the command ends all the same',
    begun: [moving('x')],
    looks: [{ places: { x: { state: 'requested' } } }],
    says: [],
    outcome: ['x'],
  },
  {
    why: 'it came back, and went elsewhere',
    begun: [moving('x')],
    looks: [
      { places: { x: n2 }, leaving: 1 },
      { left: [moving('x')] },
      { places: { x: { node: 'edge/n3', state: 'running' } } },
    ],
    says: ['x is on edge/n2', 'x is on edge/n3'],
    outcome: ['x'],
  },
  {
    why: 'a job that ended, and one that was removed',
    begun: [{ instance: 'job', state: 'waiting' as const, why: 'a job' }, moving('x')],
    looks: [
      { left: [{ instance: 'job', state: 'waiting' as const, why: 'a job' }] },
      { places: { job: { node: 'edge/n1', state: 'stopped' } } },
    ],
    says: ['job waits: a job', 'x was removed meanwhile', 'job has ended'],
    outcome: ['job', 'x'],
  },
  {
    why: 'what stays',
    begun: [moving('x')],
    looks: [{ left: [{ instance: 'x', state: 'stays' as const, why: 'it is external' }] }],
    says: ['x stays: it is external'],
    outcome: 'DRAIN_INCOMPLETE',
  },
  {
    why: 'somebody ends it',
    begun: [moving('x')],
    looks: [{ isDraining: false, left: [moving('x')] }],
    says: [],
    outcome: 'DRAIN_INCOMPLETE',
  },
]

for (const { why, begun, looks, says, outcome } of rows)
  t.test(why, async (t) => {
    const happened = await printed(begun, looks)
    t.same(happened.lines, [`edge/n1 is cordoned: ${begun.length} to move`, ...says])
    t.same(happened.outcome, outcome)
  })
