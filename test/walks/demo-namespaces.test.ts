import t from 'tap'
import { lacking } from '../lab/namespace.ts'
import { TIMEOUT_MS, walkDemo } from './demo.ts'

const skip = (await lacking()) ?? false

t.test('the demo on two private networks behind NATs', { skip, timeout: TIMEOUT_MS }, (t) =>
  walkDemo(t, [], { kind: 'namespaces', path: 'relayed' }),
)
