import t from 'tap'
import type { AssignmentRecord } from '../../src/orchestrator/cluster/assignments.ts'
import { FailedMoves, isMove } from '../../src/orchestrator/cluster/failed-moves.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { assignmentOf } from './specs.ts'

const assignment = assignmentOf({ update: { progress_deadline_seconds: 30 } }, 0)
const moving = (node: string, generation = assignment.generation, epoch = 1): AssignmentRecord => ({
  assignment,
  wanted: true,
  node: 'edge/n1',
  state: 'running',
  restarts: 0,
  successor: { node, assignment: { ...assignment, generation, epoch }, state: 'starting', restarts: 0 },
})

t.test('what is a move, and what an update', async (t) => {
  const rows = [
    { why: 'the same program elsewhere', record: moving('edge/n2'), is: true },
    { why: 'a restart', record: moving('edge/n1'), is: false },
    { why: 'an update that needs another node', record: moving('edge/n2', assignment.generation + 1), is: false },
  ]
  for (const { why, record, is } of rows) t.equal(isMove(record), is, why)
})

t.test('a move that takes too long is given up; another run begins anew', async (t) => {
  const clock = new ManualClock()
  const moves = new FailedMoves(clock)
  const slow = (...records: AssignmentRecord[]) => moves.slow(records).map(({ why }) => why)
  t.same(slow(moving('edge/n2')), [])
  await clock.advance(29_000)
  t.same(slow(moving('edge/n2')), [])
  await clock.advance(1_000)
  t.same(slow(moving('edge/n2', assignment.generation, 2)), [], 'the next run')
  await clock.advance(30_000)
  t.same(slow(moving('edge/n2', assignment.generation, 2), moving('edge/n2', 9)), ['it was not ready within 30 s'])
})

t.test('where it did not get ready it is not tried again for a minute', async (t) => {
  const clock = new ManualClock()
  const moves = new FailedMoves(clock)
  moves.failed(assignment.instance, 'edge/n2', 'exited with code 7')
  t.same(moves.lately(assignment.instance), [['edge/n2', 'it did not get ready there: exited with code 7']])
  t.same(moves.lately('shop.acme.other.prod.0'), [])
  await clock.advance(60_000)
  t.same(moves.lately(assignment.instance), [])
})
