import type { ServiceId } from '../../src/core/model/ids.ts'
import { ANY_PATH, bothOf, type PathRule, ruleOf } from '../../src/core/model/path-rule.ts'
import type { TableView } from '../../src/core/table/view.ts'

/** Which paths the flows of a service may take from here: this node's rule and the service's together, as the table has them now. */
export function flowRules(own: PathRule, table: Pick<TableView, 'entry'>): (service: ServiceId) => PathRule {
  const rules = new Map<string, PathRule>() // by the service's text: there are few different rules
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

/** Rules kept, since their texts come from the cluster. Smaller: rules are read again and again. */
const LIMIT = 256
