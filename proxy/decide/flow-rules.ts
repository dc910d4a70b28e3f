import type { ServiceId } from '../../src/core/model/ids.ts'
import { ANY_PATH, bothOf, type PathRule, ruleOf } from '../../src/core/model/path-rule.ts'
import type { TableView } from '../../src/core/table/view.ts'

/** Which paths the flows of a service may take from here: this node's rule and the service's together, as they are now. */
export function flowRules(own: PathRule, table: Pick<TableView, 'entry'>): (service: ServiceId) => PathRule {
  const rules = new Map<string, PathRule>() // by text: the words of a rule are few
  return (service) => {
    const paths = table.entry(service)?.service.paths
    if (paths === undefined) return own
    let rule = rules.get(paths)
    if (rule === undefined) {
      if (rules.size >= LIMIT) rules.clear()
      rule = own === ANY_PATH ? ruleOf({ paths }) : bothOf(own, ruleOf({ paths }))
      rules.set(paths, rule)
    }
    return rule
  }
}

/** Of texts, which come from the cluster. */
const LIMIT = 256
