import t from 'tap'
import { lacking } from '../../src/lab/namespace.ts'
import { TIMEOUT_MS, walkDemo } from './demo.ts'

const skip = (await lacking()) ?? false

t.setTimeout(TIMEOUT_MS)

t.test('the demo on two private networks behind NATs', { skip }, (t) =>
  walkDemo(t, [], { kind: 'namespaces', path: /relayed|punched/ }),
)
