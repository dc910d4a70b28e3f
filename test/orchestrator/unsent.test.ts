import t from 'tap'
import { Unsent, type UnsentEvent } from '../../src/orchestrator/cluster/unsent.ts'
import type { LocatedReport } from '../../src/orchestrator/link/messages/cluster-root.ts'

type Step =
  | readonly ['changed' | 'ended', string]
  | readonly ['event', string, string]
  | readonly ['node event', string]
  | readonly ['root is away' | 'root is back']

t.test('no report passes an event of its instance, and only the last one between two is sent', async (t) => {
  const rows: { why: string; steps: readonly Step[]; told: string[] }[] = [
    {
      why: 'changes are gathered',
      steps: [
        ['changed', 'a'],
        ['changed', 'b'],
        ['changed', 'a'],
      ],
      told: ['a as 2', 'b as 1'],
    },
    {
      why: 'refused before it is placed elsewhere',
      steps: [
        ['event', 'a', 'refused'],
        ['changed', 'a'],
      ],
      told: ['a refused', 'a as 1'],
    },
    {
      why: 'moved before it keeps to its constraints',
      steps: [
        ['changed', 'a'],
        ['event', 'a', 'kept'],
      ],
      told: ['a as 1', 'a kept'],
    },
    {
      why: 'both',
      steps: [
        ['changed', 'a'],
        ['event', 'a', 'refused'],
        ['changed', 'a'],
        ['event', 'a', 'kept'],
        ['changed', 'a'],
      ],
      told: ['a as 1', 'a refused', 'a as 2', 'a kept', 'a as 3'],
    },
    {
      why: 'others share their messages',
      steps: [
        ['changed', 'a'],
        ['changed', 'b'],
        ['changed', 'c'],
        ['event', 'a', 'kept'],
        ['event', 'b', 'kept'],
      ],
      told: ['a as 1', 'b as 1', 'a kept', 'b kept', 'c as 1'],
    },
    {
      why: 'what a node has done concerns all',
      steps: [
        ['changed', 'a'],
        ['ended', 'b'],
        ['node event', 'drained'],
        ['changed', 'a'],
        ['node event', 'lost'],
      ],
      told: ['b as 0', 'a as 1', 'n1 drained', 'a as 2', 'n1 lost'],
    },
    {
      why: 'a root that is back is told all anew, and what happened meanwhile',
      steps: [
        ['changed', 'a'],
        ['ended', 'b'],
        ['event', 'a', 'kept'],
        ['root is away'],
        ['changed', 'a'],
        ['event', 'a', 'violated'],
        ['root is back'],
      ],
      told: ['a kept', 'a violated', 'a as 2'],
    },
  ]
  for (const { why, steps, told } of rows) t.same(run(steps), told, why)
})

t.test('the oldest events are left out while the root is away for long', async (t) => {
  const unsent = new Unsent()
  for (let count = 0; count < 3_000; count++) unsent.happened({ what: `${count}`, node: 'edge/n1', at: 0 })
  const events = unsent.take(() => undefined).flatMap((round) => round.events)
  t.equal(events.length, 2_000)
  t.equal(events.at(-1)?.what, '2999')
})

t.test('a root that reads nothing while instances change and are told of does not make it grow', async (t) => {
  const unsent = new Unsent()
  let restarts = 0
  const report = (instance: string): LocatedReport => ({
    report: { instance, generation: 1, state: 'running', restarts },
  })
  for (; restarts < 5_000; restarts++) {
    const instance = `shop.acme.cart.prod.${restarts % 3}`
    unsent.changed(instance)
    unsent.happened({ what: `${restarts}`, node: 'edge/n1', at: 0, instance }, report)
  }
  const rounds = unsent.take(report)
  t.same(rounds.flatMap(({ events }) => events).length, 2_000)
  t.ok(rounds.flatMap(({ reports }) => reports).length <= 2_003, 'a report for each, and the last of the others')
  t.equal(rounds.at(-2)?.events.at(-1)?.what, '4999')
})

function run(steps: readonly Step[]): string[] {
  const unsent = new Unsent()
  const changes = new Map<string, number>()
  const report = (instance: string): LocatedReport => ({
    report: { instance, generation: 1, state: 'running', restarts: changes.get(instance) ?? 0 },
  })
  const event = (what: string, instance?: string): UnsentEvent => ({
    what,
    node: 'edge/n1',
    at: 0,
    ...(instance === undefined ? {} : { instance }),
  })
  let isAway = false
  for (const [kind, name = '', what = ''] of steps) {
    if (kind === 'changed') {
      changes.set(name, (changes.get(name) ?? 0) + 1)
      unsent.changed(name)
    } else if (kind === 'ended') unsent.ended(report(name))
    else if (kind === 'event') unsent.happened(event(what, name), isAway ? undefined : report)
    else if (kind === 'node event') unsent.happened(event(name), isAway ? undefined : report)
    else if (kind === 'root is away') isAway = true
    else unsent.again(changes.keys())
  }
  return unsent
    .take(report)
    .flatMap(({ reports, events }) => [
      ...reports.map(({ report: { instance, restarts } }) => `${instance} as ${restarts}`),
      ...events.map(({ what, instance = 'n1' }) => `${instance} ${what}`),
    ])
}
