import { spawn } from 'node:child_process'
import { once } from 'node:events'
import t from 'tap'
import { successorOf } from '../../src/cli/restart.ts'
import type { StatusReport } from '../../src/client/reports.ts'
import '../support/no-orphans.ts'

const report = (pid: number, draining: { pid: number; flowsOpen: number }[] = []) =>
  ({ pid, draining }) as unknown as StatusReport

t.test('restart waits until the old process reports the flows it still carries', async (t) => {
  const old = process.pid // is alive
  const answers = [report(old), report(2), report(2), report(2, [{ pid: old, flowsOpen: 3 }])]
  const found = await successorOf(report(old), async () => answers.shift() as StatusReport)
  t.match(found, { pid: 2, draining: [{ flowsOpen: 3 }] })
})

t.test('an old process that has exited carries none', async (t) => {
  const child = spawn(process.execPath, ['-e', ''])
  await once(child, 'exit')
  t.match(await successorOf(report(child.pid as number), async () => report(2)), { pid: 2, draining: [] })
})

t.test('the new agent may be away for a moment', async (t) => {
  let asked = 0
  const status = async () => {
    if (++asked === 1) throw new Error('ECONNREFUSED')
    return report(2, [{ pid: process.pid, flowsOpen: 1 }])
  }
  t.match(await successorOf(report(process.pid), status), { pid: 2 })
})
