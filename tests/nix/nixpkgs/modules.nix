# Modules: options are declared, definitions found, checked and merged.
lib:
let
  inherit (builtins)
    attrNames
    concatMap
    filter
    foldl'
    head
    isFunction
    isPath
    isString
    listToAttrs
    map
    mapAttrs
    removeAttrs
    ;

  isOption = it: it._type or null == "option";

  # Every module that these import, as { options, config }.
  collect =
    arguments:
    concatMap (
      module:
      let
        body = if isPath module || isString module then import module else module;
        called = if isFunction body then body arguments else body;
      in
      [
        {
          options = called.options or { };
          config =
            called.config or (removeAttrs called [
              "options"
              "_file"
              "imports"
              "key"
            ]);
        }
      ]
      ++ collect arguments (called.imports or [ ])
    );

  mergeTrees = foldl' (
    a: b:
    a
    // mapAttrs (
      name: value:
      if a ? ${name} && !isOption value then
        mergeTrees [
          a.${name}
          value
        ]
      else
        value
    ) b
  ) { };

  # A definition without its conditions: [ { priority, value } ].
  discharge =
    priority: value:
    if value._type or null == "if" then
      if value.condition then discharge priority value.content else [ ]
    else if value._type or null == "merge" then
      concatMap (discharge priority) value.contents
    else if value._type or null == "override" then
      discharge value.priority value.content
    else
      [ { inherit priority value; } ];

  # Plain sets, with their conditions moved to the attributes: a condition may depend on other options,
  # and must not be asked before an option's own value is.
  pushDown =
    value:
    if value._type or null == "if" then
      map (mapAttrs (_: lib.mkIf value.condition)) (pushDown value.content)
    else if value._type or null == "merge" then
      concatMap pushDown value.contents
    else if value._type or null == "override" then
      map (mapAttrs (_: lib.mkOverride value.priority)) (pushDown value.content)
    else
      [ value ];

  below =
    name:
    concatMap ({ priority, value }: if value ? ${name} then discharge priority value.${name} else [ ]);

  resolve =
    where: type: definitions:
    let
      first = foldl' (a: b: if a < b.priority then a else b.priority) 9999 definitions;
      values = map (it: it.value) (filter (it: it.priority == first) definitions);
      wrong = filter (it: !type.check it) values;
    in
    if wrong != [ ] then
      throw "A definition for option `${where}' is not of type `${type.description}': ${builtins.toJSON (head wrong)}"
    else if type ? attributes then
      let
        names = attrNames (foldl' (a: b: a // b.value) { } definitions);
        found = filter (it: it.definitions != [ ]) (
          map (name: {
            inherit name;
            definitions = below name definitions;
          }) names
        );
      in
      listToAttrs (
        map (it: {
          inherit (it) name;
          value = resolve "${where}.${it.name}" type.attributes it.definitions;
        }) found
      )
    else
      type.merge where values;

  evaluate =
    where: options: definitions:
    if isOption options then
      let
        # The least priority of all.
        default = if options ? default then discharge 1500 options.default else [ ];
        defined = concatMap (discharge 100) definitions;
        all = if defined == [ ] then default else defined;
      in
      if all == [ ] then
        throw "The option `${where}' is used but not defined"
      else
        resolve where options.type all
    else
      let
        sets = concatMap pushDown definitions;
        given = concatMap attrNames sets;
        unknown = filter (name: !(options ? ${name})) given;
        path = name: if where == "" then name else "${where}.${name}";
      in
      if unknown != [ ] then
        throw "The option `${path (head unknown)}' does not exist"
      else
        mapAttrs (
          name: option:
          evaluate (path name) option (concatMap (set: if set ? ${name} then [ set.${name} ] else [ ]) sets)
        ) options;
in
{
  modules,
  specialArgs ? { },
}:
let
  arguments = specialArgs // {
    inherit lib config options;
  };
  collected = collect arguments modules;
  options = mergeTrees (map (it: it.options) collected);
  config = evaluate "" options (map (it: it.config) collected);
in
{
  inherit config options;
}
